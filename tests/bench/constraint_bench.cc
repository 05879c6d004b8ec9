// Times constraints with a vocabulary: constraint_bench MODEL_FOLDER | NUMBER_OF_TOKENS. A number makes a vocabulary of
// all bytes and of random words, with and without a space before them, numbers and punctuation. For each constraint: the
// compilation with its first mask, and the masks of texts that are drawn at random, on their first way through the
// automaton and once all is known.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/time/clock.h"
#include "kernels/check.h"
#include "server/constraint/constraint_cache.h"
#include "server/model/tokenizer/tokenizer.h"

namespace tauserve {
namespace {

class WordTokenizer : public Tokenizer {
 public:
  explicit WordTokenizer(int32_t size) {
    for (int b = 0; b < 256; b++) words_.push_back(std::string(1, static_cast<char>(b)));
    std::set<std::string> known(words_.begin(), words_.end());
    std::mt19937 random(1);
    const std::string letters = "eeeeetttaaaooiinnsshhrrdlucmfwygpbvkxqjz",
                      others = "{}[]\",:.()-_=/<>;'\\ \n";
    while (static_cast<int32_t>(words_.size()) < size) {
      std::string word = random() % 2 ? " " : "";
      const int kind = random() % 20;
      const int length = kind == 0 ? 1 + random() % 3 : 2 + random() % 9;
      for (int i = 0; i < length; i++) {
        word += kind == 0   ? static_cast<char>('0' + random() % 10)
                : kind == 1 ? others[random() % others.size()]
                            : letters[random() % letters.size()];
      }
      if (kind == 2) word[word.size() / 2] &= 0x5f;
      if (known.insert(word).second) words_.push_back(word);
    }
  }
  int32_t vocab_size() const override { return static_cast<int32_t>(words_.size()); }
  absl::StatusOr<std::vector<int32_t>> Encode(absl::string_view, bool) const override {
    return absl::UnimplementedError("only decodes");
  }
  absl::StatusOr<std::vector<int32_t>> EncodePieces(absl::Span<const TextPiece>) const override {
    return absl::UnimplementedError("only decodes");
  }
  absl::StatusOr<std::string> Decode(absl::Span<const int32_t> ids, bool) const override {
    std::string text;
    for (int32_t id : ids) text += words_[id];
    return text;
  }
  std::string TokenBytes(int32_t id, bool) const override { return words_[id]; }
  std::string TokenString(int32_t id) const override { return words_[id]; }
  bool IsSpecial(int32_t) const override { return false; }

 private:
  std::vector<std::string> words_;
};

double Microseconds(absl::Duration d) { return absl::ToDoubleMicroseconds(d); }

struct Times {
  double mean, largest;
};

// Texts of at most 200 tokens, the same ones each time.
Times TimeMasks(const std::shared_ptr<Constraint>& constraint, int32_t vocab_size) {
  std::mt19937 random(7);
  std::vector<uint64_t> mask((vocab_size + 63) / 64);
  std::vector<int32_t> tokens;
  Times times = {0, 0};
  int count = 0;
  for (int text = 0; text < 20; text++) {
    ConstraintMatcher matcher(constraint);
    for (int n = 0; n < 200 && !matcher.final(); n++) {
      const absl::Time begin = absl::Now();
      TAUSERVE_CHECK(matcher.FillMask(absl::MakeSpan(mask)).ok(), "a mask");
      const double time = Microseconds(absl::Now() - begin);
      times.mean += time;
      times.largest = std::max(times.largest, time);
      count++;
      tokens.clear();
      for (int32_t t = 0; t < vocab_size; t++) {
        if (mask[t / 64] >> (t % 64) & 1) tokens.push_back(t);
      }
      if (tokens.empty()) break;
      matcher.Accept(tokens[random() % tokens.size()]);
    }
  }
  times.mean /= count;
  return times;
}

int Main(int argc, char** argv) {
  if (argc != 2) return std::fputs("usage: constraint_bench MODEL_FOLDER | NUMBER\n", stderr), 2;
  std::unique_ptr<Tokenizer> tokenizer;
  int32_t size = 0;
  if (absl::SimpleAtoi(argv[1], &size)) {
    tokenizer = std::make_unique<WordTokenizer>(size);
  } else {
    auto loaded = LoadTokenizer(argv[1]);
    if (!loaded.ok()) return std::fputs(loaded.status().ToString().c_str(), stderr), 1;
    tokenizer = *std::move(loaded);
  }
  using Kind = ConstraintSpec::Kind;
  const std::pair<const char*, ConstraintSpec> constraints[] = {
      {"date", {Kind::kRegex, "\\d{4}-\\d{2}-\\d{2}"}},
      {"choice", {Kind::kRegex, "yes|no|perhaps"}},
      {"sentences", {Kind::kRegex, "([A-Z][a-z]*( [a-z]+){2,10}\\. ){1,5}"}},
      {"person",
       {Kind::kJsonSchema,
        R"({"type":"object","properties":{"name":{"type":"string"},"age":{"type":"integer"},)"
        R"("tags":{"type":"array","items":{"type":"string"}}},"required":["name","age","tags"]})"}},
      {"lengths",
       {Kind::kJsonSchema, R"({"type":"object","properties":{"name":{"type":"string",)"
                           R"("maxLength":100},"note":{"type":"string","maxLength":1000}},)"
                           R"("required":["name","note"]})"}},
      {"any object", {Kind::kJsonObject, ""}}};
  ConstraintCache warm(tokenizer.get(), tokenizer->vocab_size(), 1 << 30, nullptr);
  const absl::Time begin = absl::Now();
  TAUSERVE_CHECK(warm.Get({Kind::kRegex, "a"}).ok(), "a constraint");
  std::printf("%d tokens; trie (once): %.1f ms\n", tokenizer->vocab_size(),
              Microseconds(absl::Now() - begin) / 1000);
  std::printf("%-12s %12s %22s %22s %8s\n", "constraint", "compile us", "first masks us (max)",
              "known masks us (max)", "KiB");
  for (const auto& [name, spec] : constraints) {
    const absl::Time start = absl::Now();
    const auto constraint = warm.Get(spec);
    const double compile = Microseconds(absl::Now() - start);
    TAUSERVE_CHECK(constraint.ok(), "a constraint");
    const Times first = TimeMasks(*constraint, tokenizer->vocab_size());
    const Times known = TimeMasks(*constraint, tokenizer->vocab_size());
    std::printf("%-12s %12.0f %12.1f (%7.0f) %12.1f (%7.0f) %8ld\n", name, compile, first.mean,
                first.largest, known.mean, known.largest, (*constraint)->bytes() / 1024);
  }
  return 0;
}

}  // namespace
}  // namespace tauserve

int main(int argc, char** argv) { return tauserve::Main(argc, argv); }
