// Writes a chat in a format: the pieces that the tokenizer encodes, with what the messages say kept apart from what the
// template says.
#ifndef TAUSERVE_SERVER_MODEL_CHAT_RENDER_H_
#define TAUSERVE_SERVER_MODEL_CHAT_RENDER_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/model/chat/chat_format.h"
#include "server/model/tokenizer/tokenizer.h"

namespace tauserve {

struct ChatMessage {
  std::string role;  // system, user, assistant or tool
  std::string content;
};

struct ChatPrompt {
  std::vector<ChatMessage> messages;
  bool add_generation_prompt = true;
  // The last message, the assistant's, is left open for the model to go on with it.
  bool continue_final_message = false;
};

// The model's own tokens that templates write.
struct ChatTokens {
  std::string bos;
  std::string eos;
};

// InvalidArgument, naming the message by its index, where the format's rules are broken.
absl::StatusOr<std::vector<TextPiece>> RenderChat(const ChatFormat& format,
                                                  const ChatTokens& tokens,
                                                  const ChatPrompt& prompt);

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_MODEL_CHAT_RENDER_H_
