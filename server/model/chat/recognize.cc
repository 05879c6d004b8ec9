#include "server/model/chat/recognize.h"

#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "server/model/chat/canonical_jinja.h"

namespace tauserve {
namespace {

// In the canonical spelling.
constexpr char kChatMlTurn[] = R"('<|im_start|>'+message.role+'\n'+message.content+'<|im_end|>\n')";
constexpr char kChatMlContentTurn[] = R"('<|im_start|>'+message.role+'\n'+content+'<|im_end|>\n')";
constexpr char kChatMlPrompt[] =
    R"({%ifadd_generation_prompt%}{{'<|im_start|>assistant\n'}}{%endif%})";
constexpr char kSystemTurn[] = R"({{'<|im_start|>system\n'+messages[0].content+'<|im_end|>\n'}})";
constexpr char kDefaultBegin[] = R"({{'<|im_start|>system\n)";
constexpr char kDefaultEnd[] = R"(<|im_end|>\n)";

constexpr char kLlamaTurn[] =
    R"('<|start_header_id|>'+message.role+'<|end_header_id|>\n\n'+message.content|trim+'<|eot_id|>')";
constexpr char kLlamaPrompt[] =
    R"({%ifadd_generation_prompt%}{{'<|start_header_id|>assistant<|end_header_id|>\n\n'}}{%endif%})";
constexpr char kLlamaDates[] =
    R"({{'Cutting Knowledge Date: December 2023\nToday Date: '+date_string+'\n\n'}})";
constexpr char kLlamaSystem[] = "{%setsystem_message=messages[0].content|trim%}";
constexpr char kFixedDate[] = "{%setdate_string='";

constexpr char kAlternate[] = "{%if(message.role=='user')!=(loop.index0%2==0)%}";
constexpr char kAlternateIndex[] = "{%if(message.role=='user')!=(ns.index%2==0)%}";
constexpr char kGemmaPrompt[] =
    R"({%ifadd_generation_prompt%}{{'<start_of_turn>model\n'}}{%endif%})";

struct Recognizer {
  const char* name;
  std::vector<const char*> has;    // all of these
  std::vector<const char*> lacks;  // none of these
};

// The first that fits wins.
const std::vector<Recognizer>& Recognizers() {
  // Words of templates that do more than write turns one after the other.
  static const std::vector<const char*> more = {
      "think",     "trim",   "tool",      "raise_exception", "strftime", "eos_token",
      "loop.last", "enable", ".content.", "messages[1:]",    "replace",  "developer"};
  static const auto* const all = new std::vector<Recognizer>{
      {"qwen3",
       {R"('\n<think>\n'+reasoning_content.strip('\n')+'\n</think>\n\n'+content.lstrip('\n')}})",
        R"({%ifadd_generation_prompt%}{{'<|im_start|>assistant\n'}}{%ifenable_thinking)",
        R"({%ifloop.index0>ns.last_query_index%}{%ifloop.lastor(notloop.lastandreasoning_content)%})",
        "'\\n<tool_response>\\n'", kSystemTurn},
       {"trim", "strftime"}},
      {"qwen2.5",
       {kChatMlTurn, kChatMlPrompt, kSystemTurn, "\\n'}}{%else%}{{'<|im_start|>system\\n",
        "'\\n<tool_response>\\n'+message.content"},
       {"think", "trim", "strftime"}},
      {"qwen3-2507",
       {kChatMlTurn, kChatMlPrompt, kSystemTurn, "'\\n<tool_response>\\n'"},
       {"think", "trim", "strftime", "{%else%}{{'<|im_start|>system"}},
      {"qwen3-2507",
       {kChatMlContentTurn, kChatMlPrompt, kSystemTurn, "'\\n<tool_response>\\n'"},
       {"think", "trim", "strftime", "{%else%}{{'<|im_start|>system"}},
      {"chatml", {kChatMlTurn, kChatMlPrompt, "{%formessageinmessages%}"}, more},
      {"llama3.2",
       {kLlamaTurn, kLlamaPrompt, kLlamaDates, kLlamaSystem, "strftime_now('%d %b %Y')"},
       {"think", "replace"}},
      {"llama3.1",
       {kLlamaTurn, kLlamaPrompt, kLlamaDates, kLlamaSystem, kFixedDate},
       {"think", "replace", "strftime"}},
      {"llama3",
       {kLlamaTurn, kLlamaPrompt, "bos_token"},
       {"think", "tool", "raise_exception", "date", "system", "eos_token", "replace"}},
      {"mistral-v0.1",
       {kAlternate, "{{'[INST] '+message.content+' [/INST]'}}", "{{message.content+eos_token+' '}}",
        "bos_token"},
       {"system", "trim", "tool"}},
      {"mistral-v0.2",
       {kAlternate, "{{'[INST] '+message.content+' [/INST]'}}", "{{message.content+eos_token}}",
        "bos_token"},
       {"system", "trim", "tool"}},
      {"mistral-v1",
       {kAlternate, "{{' [INST] '+message.content+' [/INST]'}}",
        R"({%ifloop.firstandsystem_messageisdefined%}{{' [INST] '+system_message+'\n\n'+message.content+' [/INST]'}})",
        "{{' '+message.content+eos_token}}", "bos_token"},
       {"trim", "tool"}},
      {"mistral-v3",
       {kAlternateIndex,
        R"({%ifloop.lastandsystem_messageisdefined%}{{'[INST] '+system_message+'\n\n'+message.content+'[/INST]'}})",
        "{{'[INST] '+message.content+'[/INST]'}}", "{{' '+message.content|trim+eos_token}}",
        "bos_token"},
       {"SYSTEM_PROMPT", "think"}},
      {"mistral-v3-tekken",
       {kAlternateIndex,
        R"({%ifloop.lastandsystem_messageisdefined%}{{'[INST]'+system_message+'\n\n'+message.content+'[/INST]'}})",
        "{{'[INST]'+message.content+'[/INST]'}}", "{{message.content+eos_token}}", "bos_token"},
       {"SYSTEM_PROMPT", "think"}},
      {"gemma",
       {kAlternate, R"('<start_of_turn>'+role+'\n'+message.content|trim+'<end_of_turn>\n')",
        kGemmaPrompt, "{%setrole='model'%}", "{%ifmessages[0].role=='system'%}{{raise_exception("},
       {"tool", "think"}},
      {"gemma3",
       {kAlternate, kGemmaPrompt, R"({%setfirst_user_prefix=messages[0].content+'\n\n'%})",
        R"({{'<start_of_turn>'+role+'\n'+(first_user_prefixifloop.firstelse'')}})",
        "{{message.content|trim}}", R"({{'<end_of_turn>\n')"},
       {"tool", "think"}},
  };
  return *all;
}

bool Fits(const Recognizer& recognizer, absl::string_view canonical) {
  for (const char* part : recognizer.has) {
    if (!absl::StrContains(canonical, part)) return false;
  }
  for (const char* part : recognizer.lacks) {
    if (absl::StrContains(canonical, part)) return false;
  }
  return true;
}

// The one literal system turn of a ChatML template; empty if it has none, nothing if it has one that is not understood.
std::optional<std::string> DefaultSystem(absl::string_view canonical, bool plain) {
  std::string found;
  for (size_t at = canonical.find(kDefaultBegin); at != absl::string_view::npos;
       at = canonical.find(kDefaultBegin, at + 1)) {
    const absl::string_view rest = canonical.substr(at + sizeof(kDefaultBegin) - 1);
    absl::string_view text = rest.substr(0, rest.find('\''));
    if (text.empty()) continue;  // what the chat itself gives follows, or tools
    if (!absl::ConsumeSuffix(&text, kDefaultEnd)) return {};
    if (!found.empty()) return {};
    // Where it is used: without a system message only.
    const absl::string_view before = canonical.substr(0, at);
    if (!absl::EndsWith(before, plain ? "{%ifloop.firstandmessages[0].role!='system'%}"
                                      : absl::StrCat(kSystemTurn, "{%else%}"))) {
      return {};
    }
    found = std::string(text);
  }
  if (absl::StrContains(found, "\\")) return {};
  return found;
}

}  // namespace

std::optional<ChatFormat> RecognizeChatFormat(absl::string_view jinja) {
  const std::string canonical = CanonicalJinja(jinja);
  for (const Recognizer& recognizer : Recognizers()) {
    if (!Fits(recognizer, canonical)) continue;
    ChatFormat format = *FindChatFormat(recognizer.name);
    format.bos = absl::StrContains(canonical, "bos_token");
    if (format.family == ChatFamily::kChatMl) {
      const bool plain = format.name == "chatml";
      const std::optional<std::string> system = DefaultSystem(canonical, plain);
      if (!system) return std::nullopt;
      if (plain && *system == FindChatFormat("qwen2")->default_system) format.name = "qwen2";
      format.default_system = *system;
      if (format.bos && !absl::StartsWith(canonical, "{{bos_token")) return std::nullopt;
    }
    if (format.dates && !format.date.empty()) {
      const absl::string_view rest =
          absl::string_view(canonical).substr(canonical.find(kFixedDate) + sizeof(kFixedDate) - 1);
      format.date = std::string(rest.substr(0, rest.find('\'')));
    }
    return format;
  }
  return std::nullopt;
}

}  // namespace tauserve
