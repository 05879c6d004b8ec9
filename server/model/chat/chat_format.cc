#include "server/model/chat/chat_format.h"

namespace tauserve {
namespace {

ChatFormat ChatMl(const char* name) {
  ChatFormat f;
  f.name = name;
  f.tools = true;
  f.markers = {"<|im_start|>", "<|im_end|>"};
  return f;
}

ChatFormat Qwen(const char* name, const char* default_system) {
  ChatFormat f = ChatMl(name);
  f.default_system = default_system;
  f.tool_responses = true;
  return f;
}

ChatFormat Llama3(const char* name) {
  ChatFormat f;
  f.name = name;
  f.family = ChatFamily::kLlama3;
  f.bos = true;
  f.markers = {"<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"};
  return f;
}

ChatFormat Llama31(const char* name, const char* date) {
  ChatFormat f = Llama3(name);
  f.tools = true;
  f.dates = true;
  f.date = date;
  return f;
}

ChatFormat Mistral(const char* name, SystemPlace system, const char* open, const char* close) {
  ChatFormat f;
  f.name = name;
  f.family = ChatFamily::kMistral;
  f.bos = true;
  f.system = system;
  f.open = open;
  f.close = close;
  f.markers = {"[INST]", "[/INST]"};
  return f;
}

ChatFormat Gemma(const char* name, SystemPlace system) {
  ChatFormat f;
  f.name = name;
  f.family = ChatFamily::kGemma;
  f.bos = true;
  f.system = system;
  f.markers = {"<start_of_turn>", "<end_of_turn>"};
  return f;
}

std::vector<ChatFormat> MakeFormats() {
  std::vector<ChatFormat> formats;
  formats.push_back(ChatMl("chatml"));

  ChatFormat f = ChatMl("qwen2");
  f.default_system = "You are a helpful assistant.";
  formats.push_back(f);
  formats.push_back(
      Qwen("qwen2.5", "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."));
  f = Qwen("qwen3", "");
  f.thinking = true;
  formats.push_back(f);
  formats.push_back(Qwen("qwen3-2507", ""));

  formats.push_back(Llama3("llama3"));
  formats.push_back(Llama31("llama3.1", "26 Jul 2024"));  // and 3.3
  formats.push_back(Llama31("llama3.2", ""));

  f = Mistral("mistral-v0.1", SystemPlace::kNowhere, "[INST] ", " [/INST]");
  f.answer_suffix = " ";
  formats.push_back(f);
  // v0.2 and Mixtral, as they were published.
  formats.push_back(Mistral("mistral-v0.2", SystemPlace::kNowhere, "[INST] ", " [/INST]"));
  f = Mistral("mistral-v1", SystemPlace::kFirstUser, " [INST] ", " [/INST]");
  f.answer_prefix = " ";
  formats.push_back(f);
  f = Mistral("mistral-v3", SystemPlace::kLastUser, "[INST] ", "[/INST]");
  f.answer_prefix = " ";
  f.trim_answers = true;
  formats.push_back(f);
  formats.push_back(Mistral("mistral-v3-tekken", SystemPlace::kLastUser, "[INST]", "[/INST]"));

  formats.push_back(Gemma("gemma", SystemPlace::kNowhere));  // and Gemma 2
  formats.push_back(Gemma("gemma3", SystemPlace::kFirstUser));
  return formats;
}

}  // namespace

const std::vector<ChatFormat>& ChatFormats() {
  static const auto* const formats = new std::vector<ChatFormat>(MakeFormats());
  return *formats;
}

const ChatFormat* FindChatFormat(absl::string_view name) {
  for (const ChatFormat& format : ChatFormats()) {
    if (format.name == name) return &format;
  }
  return nullptr;
}

}  // namespace tauserve
