// Writes chats for compare_chat_templates.py. Arguments: a model folder, and what --chat_template would be. The first
// line of output is {"name", "status", "text_markers"}; each line of standard input is a JSON object {"messages",
// "add_generation_prompt", "continue_final_message"}, each further line of output the ids, or why there are none.
#include <cstdio>
#include <iostream>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"
#include "server/model/chat/chat_template.h"

namespace tauserve {
namespace {

nlohmann::json Answer(const ChatTemplate& chat, const nlohmann::json& question) {
  ChatPrompt prompt;
  for (const nlohmann::json& message : question["messages"]) {
    prompt.messages.push_back({message["role"], message["content"]});
  }
  prompt.add_generation_prompt = question["add_generation_prompt"];
  prompt.continue_final_message = question["continue_final_message"];
  const auto ids = chat.Encode(prompt);
  return ids.ok() ? nlohmann::json(*ids) : nlohmann::json(ids.status().ToString());
}

int Main(int argc, char** argv) {
  if (argc != 3) return 2;
  const auto tokenizer = LoadTokenizer(argv[1]);
  if (!tokenizer.ok()) {
    std::fprintf(stderr, "%s\n", tokenizer.status().ToString().c_str());
    return 1;
  }
  const auto chat = ChatTemplate::Load(argv[1], argv[2], tokenizer->get());
  if (!chat.ok()) {
    std::fprintf(stderr, "%s\n", chat.status().ToString().c_str());
    return 1;
  }
  const nlohmann::json first = {{"name", chat->name()},
                                {"status", chat->status().ToString()},
                                {"text_markers", chat->text_markers()}};
  std::printf("%s\n", first.dump().c_str());
  std::string line;
  while (std::getline(std::cin, line)) {
    std::printf("%s\n", Answer(*chat, nlohmann::json::parse(line)).dump().c_str());
  }
  return 0;
}

}  // namespace
}  // namespace tauserve

int main(int argc, char** argv) { return tauserve::Main(argc, argv); }
