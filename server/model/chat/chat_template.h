// How a model wants a chat written: its own Jinja template where that is one of the formats in use, or the format that
// the server was told to use. Immutable; safe to use from any thread.
#ifndef TAUSERVE_SERVER_MODEL_CHAT_CHAT_TEMPLATE_H_
#define TAUSERVE_SERVER_MODEL_CHAT_CHAT_TEMPLATE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/model/chat/chat_format.h"
#include "server/model/chat/render.h"
#include "server/model/tokenizer/tokenizer.h"

namespace tauserve {

class ChatTemplate {
 public:
  // Refuses all chats.
  ChatTemplate();

  // Reads tokenizer_config.json (chat_template, bos_token, eos_token) and chat_template.jinja, which goes first, of a
  // model folder. `name`: "auto", or one of ChatFormats(). A model without a template, or with one that is not
  // recognised, is no error: status() says so, and chats are refused. InvalidArgument for a malformed file or an unknown
  // name. `tokenizer` must outlive the result.
  static absl::StatusOr<ChatTemplate> Load(const std::string& model_dir, const std::string& name,
                                           const Tokenizer* tokenizer);

  // OK, or why chats are refused.
  const absl::Status& status() const { return status_; }
  // The format's name; empty if chats are refused.
  const std::string& name() const { return format_.name; }
  // Those of its markers that the tokenizer does not keep apart from the same text in a message.
  const std::vector<std::string>& text_markers() const { return text_markers_; }

  // The prompt's tokens, with bos where the template has it. A message's text never becomes a control token.
  // InvalidArgument, naming the message by its index, where the format's rules are broken or a message spells one of
  // text_markers().
  absl::StatusOr<std::vector<int32_t>> Encode(const ChatPrompt& prompt) const;

 private:
  absl::Status UseModelsOwn(const std::string& jinja);

  absl::Status status_;
  ChatFormat format_;
  ChatTokens tokens_;
  const Tokenizer* tokenizer_ = nullptr;
  std::vector<std::string> text_markers_;
};

// "chatml, qwen2, ...": what --chat_template takes besides auto.
std::string ChatTemplateNames();

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_MODEL_CHAT_CHAT_TEMPLATE_H_
