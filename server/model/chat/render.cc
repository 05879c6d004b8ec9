#include "server/model/chat/render.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "nlohmann/json.hpp"
#include "server/model/tokenizer/utf8.h"

namespace tauserve {
namespace {

constexpr size_t kMaxRoleInMessage = 40;

template <typename... Args>
absl::Status Invalid(size_t index, const Args&... args) {
  return absl::InvalidArgumentError(absl::StrCat("messages[", index, "]", args...));
}

// What Python's str.strip, which is Jinja's trim, takes away.
bool IsPythonSpace(uint32_t c) {
  return (c >= 9 && c <= 13) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f ||
         c == 0x3000;
}

// `text` is valid UTF-8.
absl::string_view Trim(absl::string_view text) {
  while (!text.empty()) {
    const Utf8Part first = NextUtf8(text);
    if (!IsPythonSpace(first.code_point)) break;
    text.remove_prefix(first.length);
  }
  while (!text.empty()) {
    size_t last = text.size() - 1;
    while (last > 0 && (static_cast<uint8_t>(text[last]) & 0xc0) == 0x80) last--;
    if (!IsPythonSpace(NextUtf8(text.substr(last)).code_point)) break;
    text.remove_suffix(text.size() - last);
  }
  return text;
}

absl::string_view TrimNewlines(absl::string_view text, bool front, bool back) {
  while (front && !text.empty() && text.front() == '\n') text.remove_prefix(1);
  while (back && !text.empty() && text.back() == '\n') text.remove_suffix(1);
  return text;
}

class Renderer {
 public:
  Renderer(const ChatFormat& format, const ChatTokens& tokens, const ChatPrompt& prompt)
      : format_(format), tokens_(tokens), prompt_(prompt), messages_(prompt.messages) {}

  absl::StatusOr<std::vector<TextPiece>> Run() {
    if (absl::Status s = Check(); !s.ok()) return s;
    if (format_.bos) Say(tokens_.bos);
    switch (format_.family) {
      case ChatFamily::kChatMl:
        ChatMl();
        break;
      case ChatFamily::kLlama3:
        Llama3();
        break;
      case ChatFamily::kMistral:
        Mistral();
        break;
      case ChatFamily::kGemma:
        Gemma();
        break;
    }
    return std::move(pieces_);
  }

 private:
  absl::Status Check() const {
    if (messages_.empty()) return absl::InvalidArgumentError("the chat has no messages");
    for (size_t i = 0; i < messages_.size(); i++) {
      if (absl::Status s = CheckRole(i); !s.ok()) return s;
      if (absl::Status s = CheckUtf8(messages_[i].content); !s.ok()) {
        return Invalid(i, ".content: ", s.message());
      }
    }
    const bool alternate =
        format_.family == ChatFamily::kMistral || format_.family == ChatFamily::kGemma;
    const size_t first = HasSystem() ? 1 : 0;
    if (alternate && first == messages_.size()) {
      return Invalid(0, " is a system message alone: the chat template '", format_.name,
                     "' puts it into a user's message, and there is none");
    }
    for (size_t i = first; alternate && i < messages_.size(); i++) {
      const char* expected = (i - first) % 2 == 0 ? "user" : "assistant";
      if (messages_[i].role == expected) continue;
      return Invalid(
          i, ".role is '", messages_[i].role, "', must be '", expected,
          "': with the chat template '", format_.name,
          "' user and assistant take turns, the user first",
          format_.system == SystemPlace::kNowhere ? "" : " after an optional system message");
    }
    if (prompt_.continue_final_message && messages_.back().role != "assistant") {
      return Invalid(messages_.size() - 1, ".role is '", messages_.back().role,
                     "': continue_final_message needs a last message of the assistant");
    }
    return absl::OkStatus();
  }

  absl::Status CheckRole(size_t i) const {
    const std::string& role = messages_[i].role;
    if (role == "user" || role == "assistant") return absl::OkStatus();
    if (role == "system") {
      if (format_.system != SystemPlace::kNowhere) return absl::OkStatus();
      return Invalid(i, ".role is 'system', which the chat template '", format_.name,
                     "' does not have: say it in the first user message");
    }
    if (role != "tool") {
      return Invalid(i, ".role is '", role.substr(0, kMaxRoleInMessage),
                     "', must be system, user, assistant or tool");
    }
    if (format_.tools) return absl::OkStatus();
    return Invalid(i, ".role is 'tool', which the chat template '", format_.name,
                   "' does not have");
  }

  bool HasSystem() const { return messages_[0].role == "system"; }
  bool IsOpen(size_t i) const {
    return prompt_.continue_final_message && i + 1 == messages_.size();
  }
  bool WantsPrompt() const {
    return prompt_.add_generation_prompt && !prompt_.continue_final_message;
  }

  // The template's words and those of a message.
  void Say(absl::string_view text) { Append(text, true); }
  void Quote(absl::string_view text) { Append(text, false); }
  void Append(absl::string_view text, bool trusted) {
    if (text.empty()) return;
    if (pieces_.empty() || pieces_.back().trusted != trusted) pieces_.push_back({"", trusted});
    absl::StrAppend(&pieces_.back().text, text);
  }

  void ChatMl() {
    if (!format_.default_system.empty() && !HasSystem()) {
      Say(absl::StrCat("<|im_start|>system\n", format_.default_system, "<|im_end|>\n"));
    }
    const size_t last_query = format_.thinking ? LastQuery() : 0;
    for (size_t i = 0; i < messages_.size(); i++) {
      const ChatMessage& message = messages_[i];
      if (message.role == "tool" && format_.tool_responses) {
        ToolResponse(i);
        continue;
      }
      Say(absl::StrCat("<|im_start|>", message.role, "\n"));
      if (message.role == "assistant" && format_.thinking) {
        Answer(i, i > last_query);
      } else {
        Quote(message.content);
      }
      if (!IsOpen(i)) Say("<|im_end|>\n");
    }
    if (WantsPrompt()) Say("<|im_start|>assistant\n");
  }

  bool IsTool(size_t i) const { return i < messages_.size() && messages_[i].role == "tool"; }

  // Neighbours share one turn of the user.
  void ToolResponse(size_t i) {
    if (i == 0 || !IsTool(i - 1)) Say("<|im_start|>user");
    Say("\n<tool_response>\n");
    Quote(messages_[i].content);
    Say("\n</tool_response>");
    if (!IsTool(i + 1)) Say("<|im_end|>\n");
  }

  // The last message of the user that is no tool's response.
  size_t LastQuery() const {
    for (size_t i = messages_.size(); i-- > 0;) {
      const std::string& content = messages_[i].content;
      if (messages_[i].role != "user") continue;
      if (absl::StartsWith(content, "<tool_response>") &&
          absl::EndsWith(content, "</tool_response>")) {
        continue;
      }
      return i;
    }
    return messages_.size() - 1;
  }

  // Thoughts are kept only behind the last question (`recent`).
  void Answer(size_t i, bool recent) {
    absl::string_view content = messages_[i].content, thought;
    constexpr absl::string_view kBegin = "<think>", kEnd = "</think>";
    if (const size_t end = content.rfind(kEnd); end != absl::string_view::npos) {
      thought = TrimNewlines(content.substr(0, content.find(kEnd)), false, true);
      if (const size_t begin = thought.rfind(kBegin); begin != absl::string_view::npos) {
        thought.remove_prefix(begin + kBegin.size());
      }
      thought = TrimNewlines(thought, true, false);
      content = TrimNewlines(content.substr(end + kEnd.size()), true, false);
    }
    if (recent && (i + 1 == messages_.size() || !thought.empty())) {
      Say("<think>\n");
      Quote(TrimNewlines(thought, true, true));
      Say("\n</think>\n\n");
      content = TrimNewlines(content, true, false);
    }
    Quote(content);
  }

  void Llama3() {
    const auto header = [this](absl::string_view role) {
      Say(absl::StrCat("<|start_header_id|>", role, "<|end_header_id|>\n\n"));
    };
    size_t first = 0;
    if (format_.dates) {
      header("system");
      const std::string today = absl::FormatTime("%d %b %Y", absl::Now(), absl::LocalTimeZone());
      Say(absl::StrCat("Cutting Knowledge Date: December 2023\nToday Date: ",
                       format_.date.empty() ? today : format_.date, "\n\n"));
      if (HasSystem()) Quote(Trim(messages_[first++].content));
      Say("<|eot_id|>");
    }
    for (size_t i = first; i < messages_.size(); i++) {
      if (messages_[i].role == "tool") {
        header("ipython");
        Quote(nlohmann::json(messages_[i].content).dump());
      } else {
        header(messages_[i].role);
        Quote(Trim(messages_[i].content));
      }
      if (!IsOpen(i)) Say("<|eot_id|>");
    }
    if (WantsPrompt()) header("assistant");
  }

  void Mistral() {
    const size_t first = HasSystem() ? 1 : 0;
    const size_t with_system =
        format_.system == SystemPlace::kFirstUser ? first : messages_.size() - 1;
    for (size_t i = first; i < messages_.size(); i++) {
      const std::string& content = messages_[i].content;
      if (messages_[i].role == "user") {
        Say(format_.open);
        if (HasSystem() && i == with_system) {
          Quote(messages_[0].content);
          Say("\n\n");
        }
        Quote(content);
        Say(format_.close);
        continue;
      }
      Say(format_.answer_prefix);
      Quote(format_.trim_answers ? Trim(content) : content);
      if (!IsOpen(i)) Say(tokens_.eos + format_.answer_suffix);
    }
  }

  void Gemma() {
    const size_t first = HasSystem() ? 1 : 0;
    for (size_t i = first; i < messages_.size(); i++) {
      Say(messages_[i].role == "user" ? "<start_of_turn>user\n" : "<start_of_turn>model\n");
      if (i == 1 && HasSystem()) {
        Quote(messages_[0].content);
        Say("\n\n");
      }
      Quote(Trim(messages_[i].content));
      if (!IsOpen(i)) Say("<end_of_turn>\n");
    }
    if (WantsPrompt()) Say("<start_of_turn>model\n");
  }

  const ChatFormat& format_;
  const ChatTokens& tokens_;
  const ChatPrompt& prompt_;
  const std::vector<ChatMessage>& messages_;
  std::vector<TextPiece> pieces_;
};

}  // namespace

absl::StatusOr<std::vector<TextPiece>> RenderChat(const ChatFormat& format,
                                                  const ChatTokens& tokens,
                                                  const ChatPrompt& prompt) {
  return Renderer(format, tokens, prompt).Run();
}

}  // namespace tauserve
