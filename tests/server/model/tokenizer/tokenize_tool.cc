// Runs a tokenizer for compare_tokenizers.py. Argument: a model folder. Each line of standard input is a JSON object
// {"text", "special"} or {"ids", "skip"}; each line of output the ids, or [decoded text, streamed text].
#include <cstdio>
#include <iostream>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"
#include "server/model/tokenizer/tokenizer.h"

namespace tauserve {
namespace {

nlohmann::json Answer(const Tokenizer& tokenizer, const nlohmann::json& question) {
  if (question.contains("text")) {
    const auto ids = tokenizer.Encode(question["text"].get<std::string>(), question["special"]);
    return ids.ok() ? nlohmann::json(*ids) : nlohmann::json(ids.status().ToString());
  }
  const std::vector<int32_t> ids = question["ids"];
  const bool skip = question["skip"];
  const auto decoded = tokenizer.Decode(ids, skip);
  StreamingDecoder decoder(&tokenizer, skip);
  std::string streamed;
  for (int32_t id : ids) streamed += decoder.Append(id);
  streamed += decoder.Flush();
  return {decoded.ok() ? *decoded : decoded.status().ToString(), streamed};
}

int Main(int argc, char** argv) {
  if (argc != 2) return 2;
  const auto tokenizer = LoadTokenizer(argv[1]);
  if (!tokenizer.ok()) {
    std::fprintf(stderr, "%s\n", tokenizer.status().ToString().c_str());
    return 1;
  }
  std::string line;
  while (std::getline(std::cin, line)) {
    std::printf("%s\n", Answer(**tokenizer, nlohmann::json::parse(line)).dump().c_str());
  }
  return 0;
}

}  // namespace
}  // namespace tauserve

int main(int argc, char** argv) { return tauserve::Main(argc, argv); }
