// What is written around the messages of a chat, as data: one preset for each template in use, which a model's own
// template may adjust (its default system prompt, say).
#ifndef TAUSERVE_SERVER_MODEL_CHAT_CHAT_FORMAT_H_
#define TAUSERVE_SERVER_MODEL_CHAT_CHAT_FORMAT_H_

#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace tauserve {

enum class ChatFamily { kChatMl, kLlama3, kMistral, kGemma };

// Where a system message goes.
enum class SystemPlace { kOwnTurn, kNowhere, kFirstUser, kLastUser };

struct ChatFormat {
  std::string name;
  ChatFamily family = ChatFamily::kChatMl;
  bool bos = false;  // begins with the model's bos token
  SystemPlace system = SystemPlace::kOwnTurn;
  bool tools = false;  // the role `tool` is known

  // ChatML.
  std::string default_system;   // where a chat begins without one; empty: none
  bool tool_responses = false;  // what a tool says stands in a turn of the user, not in its own
  bool thinking = false;        // answers begin with a thought, which only the last ones keep

  // Llama 3.1 and later: a system turn with dates in any case.
  bool dates = false;
  std::string date;  // "26 Jul 2024"; empty: today

  // Mistral.
  std::string open, close;    // around what the user says
  std::string answer_prefix;  // before an answer
  std::string answer_suffix;  // behind its eos token
  bool trim_answers = false;

  // What begins and ends turns.
  std::vector<std::string> markers;
};

const std::vector<ChatFormat>& ChatFormats();
// Null if there is none of this name.
const ChatFormat* FindChatFormat(absl::string_view name);

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_MODEL_CHAT_CHAT_FORMAT_H_
