// For compare_constraints.py: constraint_tool MODEL_FOLDER. A question is a line of JSON, {"kind": 1 | 2 | 3, "text": ...}
// with "probes": [hex, ...], or with "walks": N, "seed": S, "max_tokens": M, "allowed": true | false. The answer says of
// each probe whether a match may begin with it and whether it is one; of each walk (tokens drawn at random from the
// masks) the text, whether it is complete, and the tokens that its last mask allows. Every mask is compared with what the
// automaton says of each token of the vocabulary by itself.
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/types/span.h"
#include "nlohmann/json.hpp"
#include "server/constraint/automaton.h"
#include "server/constraint/constraint.h"
#include "server/constraint/constraint_cache.h"
#include "server/model/tokenizer/tokenizer.h"

namespace tauserve {
namespace {

using Json = nlohmann::json;

void Check(bool good, const std::string& what) {
  if (good) return;
  std::fprintf(stderr, "constraint_tool: %s\n", what.c_str());
  std::exit(1);
}

std::vector<int32_t> Tokens(const std::vector<uint64_t>& mask) {
  std::vector<int32_t> tokens;
  for (size_t t = 0; t < mask.size() * 64; t++) {
    if (mask[t / 64] >> (t % 64) & 1) tokens.push_back(static_cast<int32_t>(t));
  }
  return tokens;
}

Json Probe(const ConstraintSpec& spec, const Json& probes, int32_t vocab_size) {
  absl::StatusOr<Nfa> nfa = CompileNfa(spec);
  if (!nfa.ok()) return {{"error", std::string(nfa.status().message())}};
  Automaton automaton(*std::move(nfa), vocab_size, 1 << 16);  // forgets often
  Json answers = Json::array();
  for (const Json& probe : probes) {
    const Automaton::Place place =
        automaton.Follow(automaton.Start(), absl::HexStringToBytes(probe.get<std::string>()));
    answers.push_back({static_cast<bool>(place), place && Automaton::Complete(place)});
  }
  return {{"probes", answers}};
}

Json Walk(const ConstraintSpec& spec, const Json& question, const Tokenizer& tokenizer,
          ConstraintCache& cache) {
  absl::StatusOr<std::shared_ptr<Constraint>> constraint = cache.Get(spec);
  if (!constraint.ok()) return {{"error", std::string(constraint.status().message())}};
  absl::StatusOr<Nfa> nfa = CompileNfa(spec);
  Automaton automaton(*std::move(nfa), tokenizer.vocab_size(), 1 << 24);
  std::mt19937 random(question["seed"].get<uint32_t>());
  Json walks = Json::array();
  for (int w = 0; w < question["walks"].get<int>(); w++) {
    ConstraintMatcher matcher(*constraint);
    StreamingDecoder decoder(&tokenizer, true);
    Automaton::Place place = automaton.Start();
    std::string text;
    std::vector<int32_t> allowed;
    const int max_tokens = question["max_tokens"].get<int>();
    for (int n = 0;; n++) {
      std::vector<uint64_t> mask((tokenizer.vocab_size() + 63) / 64);
      absl::Status status = matcher.FillMask(absl::MakeSpan(mask));
      Check(status.ok(), std::string(status.message()));
      allowed = Tokens(mask);
      std::vector<int32_t> expected;
      for (int32_t t = 0; t < tokenizer.vocab_size(); t++) {
        const std::string bytes = tokenizer.TokenBytes(t, n == 0);
        if (tokenizer.IsSpecial(t) || bytes.empty()) continue;
        if (automaton.Follow(place, bytes)) expected.push_back(t);
      }
      Check(allowed == expected, "a mask differs from its tokens one by one");
      Check(matcher.complete() == Automaton::Complete(place), "complete() differs");
      Check(matcher.final() == (matcher.complete() && allowed.empty()) || !matcher.final(),
            "a final place allows tokens");
      if (allowed.empty() || n == max_tokens || (matcher.complete() && random() % 4 == 0)) break;
      const int32_t token = allowed[random() % allowed.size()];
      place = automaton.Follow(place, tokenizer.TokenBytes(token, n == 0));
      matcher.Accept(token);
      text += decoder.Append(token);
    }
    text += decoder.Flush();
    Json walk = {{"text", text}, {"complete", matcher.complete()}};
    if (question.value("allowed", false)) walk["allowed"] = allowed;
    walks.push_back(std::move(walk));
  }
  return {{"walks", walks}};
}

int Main(int argc, char** argv) {
  Check(argc == 2, "usage: constraint_tool MODEL_FOLDER");
  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = LoadTokenizer(argv[1]);
  Check(tokenizer.ok(), std::string(tokenizer.status().message()));
  const int32_t vocab_size = (*tokenizer)->vocab_size();
  ConstraintCache cache(tokenizer->get(), vocab_size, 1 << 22, nullptr);
  for (std::string line; std::getline(std::cin, line);) {
    const Json question = Json::parse(line);
    if (question.contains("vocabulary")) {
      Json tokens = Json::array();
      for (int32_t t = 0; t < vocab_size; t++) {
        const bool special = (*tokenizer)->IsSpecial(t);
        tokens.push_back(special ? "" : absl::BytesToHexString((*tokenizer)->TokenBytes(t, false)));
      }
      std::cout << tokens.dump() << '\n';
      continue;
    }
    const ConstraintSpec spec = {static_cast<ConstraintSpec::Kind>(question["kind"].get<int>()),
                                 question.value("text", "")};
    const Json answer = question.contains("probes") ? Probe(spec, question["probes"], vocab_size)
                                                    : Walk(spec, question, **tokenizer, cache);
    std::cout << answer.dump() << '\n';
  }
  return 0;
}

}  // namespace
}  // namespace tauserve

int main(int argc, char** argv) { return tauserve::Main(argc, argv); }
