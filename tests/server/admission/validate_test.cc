#include "server/admission/validate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

namespace tauserve {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr int32_t kVocab = 100;
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

SamplingParams ModelDefaults() {
  SamplingParams p;
  p.temperature = 0.7f;
  p.min_p = 0.08f;
  p.top_k = 40;
  p.repetition_penalty = 1.1f;
  return p;
}

template <typename Result>
void ExpectInvalid(const Result& result, const std::vector<std::string>& parts) {
  absl::Status status;
  if constexpr (std::is_same_v<Result, absl::Status>) {
    status = result;
  } else {
    status = result.status();
  }
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  for (const std::string& part : parts) {
    EXPECT_THAT(std::string(status.message()), HasSubstr(part));
  }
}

TEST(ResolveSamplingTest, UnsetTakesTheModelsDefaults) {
  const auto p = ResolveSampling({}, ModelDefaults(), kVocab);
  ASSERT_TRUE(p.ok());
  EXPECT_EQ(p->temperature, 0.7f);
  EXPECT_EQ(p->min_p, 0.08f);
  EXPECT_EQ(p->top_k, 40);
  EXPECT_EQ(p->repetition_penalty, 1.1f);
  EXPECT_EQ(p->top_p, 1);
}

TEST(ResolveSamplingTest, ZeroMeansZero) {
  SamplingSpec spec;
  spec.min_p = 0;
  spec.top_k = 0;
  spec.repetition_penalty = 1;
  const auto p = ResolveSampling(spec, ModelDefaults(), kVocab);
  ASSERT_TRUE(p.ok());
  EXPECT_EQ(p->min_p, 0);
  EXPECT_EQ(p->top_k, 0);
  EXPECT_EQ(p->temperature, 0.7f);
}

TEST(ResolveSamplingTest, GreedyDropsTheModelsPenaltiesAndKeepsTheRequests) {
  SamplingSpec spec;
  spec.temperature = 0;
  auto p = ResolveSampling(spec, ModelDefaults(), kVocab);
  ASSERT_TRUE(p.ok());
  EXPECT_TRUE(p->greedy());
  EXPECT_EQ(p->repetition_penalty, 1);
  spec.repetition_penalty = 1.3f;
  p = ResolveSampling(spec, ModelDefaults(), kVocab);
  ASSERT_TRUE(p.ok());
  EXPECT_EQ(p->repetition_penalty, 1.3f);
}

TEST(ResolveSamplingTest, AModelThatIsGreedyByItselfKeepsItsPenalties) {
  SamplingParams defaults = ModelDefaults();
  defaults.temperature = 0;
  const auto p = ResolveSampling({}, defaults, kVocab);
  ASSERT_TRUE(p.ok());
  EXPECT_TRUE(p->greedy());
  EXPECT_EQ(p->repetition_penalty, 1.1f);
}

TEST(ResolveSamplingTest, SeedsAreDrawnUnlessSet) {
  const auto a = ResolveSampling({}, {}, kVocab), b = ResolveSampling({}, {}, kVocab);
  EXPECT_NE(a->seed, b->seed);
  SamplingSpec spec;
  spec.seed = 0;
  EXPECT_EQ(ResolveSampling(spec, {}, kVocab)->seed, 0);
}

TEST(ResolveSamplingTest, EdgesOfTheRanges) {
  SamplingSpec spec;
  spec.temperature = 100;
  spec.top_p = 1;
  spec.min_p = 1;
  spec.typical_p = 1e-6f;
  spec.presence_penalty = -2;
  spec.frequency_penalty = 2;
  spec.top_k = std::numeric_limits<uint32_t>::max();
  spec.logit_bias = {{0, -100.f}, {kVocab - 1, 100.f}};
  spec.allowed_token_ids = {0, kVocab - 1};
  spec.num_candidates = 64;
  const auto p = ResolveSampling(spec, {}, kVocab);
  ASSERT_TRUE(p.ok()) << p.status();
  EXPECT_EQ(p->top_k, kVocab);  // more changes nothing
  EXPECT_EQ(p->logit_bias.at(kVocab - 1), 100);
  EXPECT_THAT(p->allowed_token_ids, ElementsAre(0, kVocab - 1));
  EXPECT_EQ(p->num_candidates, 64);
}

TEST(ResolveSamplingTest, OutOfRange) {
  auto refused = [](auto set, const std::vector<std::string>& parts) {
    SamplingSpec spec;
    set(spec);
    ExpectInvalid(ResolveSampling(spec, {}, kVocab), parts);
  };
  for (float bad : {-0.1f, 100.5f, kNan, kInf, -kInf}) {
    refused([&](SamplingSpec& s) { s.temperature = bad; }, {"temperature", "[0, 100]"});
  }
  for (float bad : {0.f, -0.1f, 1.01f, kNan, kInf}) {
    refused([&](SamplingSpec& s) { s.top_p = bad; }, {"top_p", "(0, 1]"});
    refused([&](SamplingSpec& s) { s.typical_p = bad; }, {"typical_p", "(0, 1]"});
  }
  for (float bad : {-0.1f, 1.01f, kNan}) {
    refused([&](SamplingSpec& s) { s.min_p = bad; }, {"min_p", "[0, 1]"});
  }
  for (float bad : {0.f, -1.f, 101.f, kNan, kInf}) {
    refused([&](SamplingSpec& s) { s.repetition_penalty = bad; },
            {"repetition_penalty", "(0, 100]"});
  }
  for (float bad : {-2.1f, 2.1f, kNan, kInf}) {
    refused([&](SamplingSpec& s) { s.presence_penalty = bad; }, {"presence_penalty", "[-2, 2]"});
    refused([&](SamplingSpec& s) { s.frequency_penalty = bad; }, {"frequency_penalty", "[-2, 2]"});
  }
  refused([](SamplingSpec& s) { s.logit_bias = {{kVocab, 1.f}}; }, {"logit_bias", "100"});
  refused([](SamplingSpec& s) { s.logit_bias = {{1, 100.5f}}; }, {"logit_bias", "100.5"});
  refused([](SamplingSpec& s) { s.logit_bias = {{1, kNan}}; }, {"logit_bias", "nan"});
  refused(
      [](SamplingSpec& s) {
        s.logit_bias.assign(kMaxLogitBiases + 1, {1, 0.f});
      },
      {"logit_bias", "1025", "1024"});
  refused([](SamplingSpec& s) { s.allowed_token_ids = {4294967295u}; }, {"4294967295", "100"});
  for (uint32_t bad : {0u, 65u}) {
    refused([&](SamplingSpec& s) { s.num_candidates = bad; }, {"num_candidates is", "[1, 64]"});
  }
}

// Bytes, and nothing at all for a lone "-".
class ByteTokenizer : public Tokenizer {
 public:
  int32_t vocab_size() const override { return kVocab; }
  absl::StatusOr<std::vector<int32_t>> Encode(absl::string_view text, bool special) const override {
    if (text == "-") return std::vector<int32_t>();
    if (text.find('\xff') != text.npos) return absl::InvalidArgumentError("byte 255 at offset 0");
    std::vector<int32_t> ids;
    if (special) ids.push_back(0);
    for (char c : text) ids.push_back(c % kVocab);
    return ids;
  }
  absl::StatusOr<std::vector<int32_t>> EncodePieces(absl::Span<const TextPiece>) const override {
    return absl::UnimplementedError("no pieces");
  }
  absl::StatusOr<std::string> Decode(absl::Span<const int32_t>, bool) const override { return ""; }
  std::string TokenBytes(int32_t, bool) const override { return ""; }
  std::string TokenString(int32_t) const override { return ""; }
  bool IsSpecial(int32_t) const override { return false; }
};

TEST(ResolveBadWordsTest, WordsAloneAndBehindASpaceAndIdsAsTheyAre) {
  SamplingSpec spec;
  spec.bad_words = {"ab", " c"};
  spec.bad_words_ids = {{7}, {kVocab - 1, 0}};
  const auto bad = ResolveBadWords(spec, ByteTokenizer(), kVocab);
  ASSERT_TRUE(bad.ok()) << bad.status();
  EXPECT_THAT(*bad, ElementsAre(ElementsAre(97, 98), ElementsAre(32, 97, 98), ElementsAre(32, 99),
                                ElementsAre(7), ElementsAre(kVocab - 1, 0)));
  EXPECT_TRUE(ResolveBadWords({}, ByteTokenizer(), kVocab)->empty());
}

TEST(ResolveBadWordsTest, OutOfRange) {
  auto refused = [](auto set, const std::vector<std::string>& parts) {
    SamplingSpec spec;
    set(spec);
    ExpectInvalid(ResolveBadWords(spec, ByteTokenizer(), kVocab), parts);
  };
  refused([](SamplingSpec& s) { s.bad_words = {"a", ""}; }, {"bad word", "0 bytes", "256"});
  refused([](SamplingSpec& s) { s.bad_words = {std::string(257, 'x')}; }, {"257 bytes", "256"});
  refused([](SamplingSpec& s) { s.bad_words = {"-"}; }, {"bad word '-'", "no tokens"});
  refused([](SamplingSpec& s) { s.bad_words = {"\xff"}; }, {"bad_words", "byte 255"});
  refused([](SamplingSpec& s) { s.bad_words_ids = {{1}, {}}; }, {"bad_words_ids", "0 tokens"});
  refused([](SamplingSpec& s) { s.bad_words_ids.emplace_back(257, 1); }, {"257 tokens", "256"});
  refused([](SamplingSpec& s) { s.bad_words_ids = {{1, kVocab}}; }, {"bad_words_ids", "100"});
  refused(
      [](SamplingSpec& s) {
        s.bad_words.assign(200, "a");
        s.bad_words_ids.assign(57, {1});
      },
      {"257 entries", "256"});
}

TEST(ResolveStoppingTest, PassesThrough) {
  StoppingSpec spec;
  spec.stop_strings = {"a", std::string(kMaxStopStringBytes, 'x')};
  spec.stop_token_ids = {3, kVocab - 1};
  spec.include_stop_in_output = true;
  spec.ignore_eos = true;
  spec.time_limit = absl::Nanoseconds(1);
  const auto p = ResolveStopping(spec, kVocab);
  ASSERT_TRUE(p.ok()) << p.status();
  EXPECT_EQ(p->stop_strings, spec.stop_strings);
  EXPECT_THAT(p->stop_token_ids, ElementsAre(3, kVocab - 1));
  EXPECT_TRUE(p->include_stop_in_output && p->ignore_eos);
  EXPECT_EQ(p->time_limit, absl::Nanoseconds(1));
  EXPECT_EQ(ResolveStopping({}, kVocab)->time_limit, absl::InfiniteDuration());
}

TEST(ResolveStoppingTest, OutOfRange) {
  auto refused = [](auto set, const std::vector<std::string>& parts) {
    StoppingSpec spec;
    set(spec);
    ExpectInvalid(ResolveStopping(spec, kVocab), parts);
  };
  refused([](StoppingSpec& s) { s.max_new_tokens = 0; }, {"max_new_tokens is 0", "1"});
  refused([](StoppingSpec& s) { s.stop_strings.assign(17, "a"); }, {"stop_strings", "17", "16"});
  refused([](StoppingSpec& s) { s.stop_strings = {"a", ""}; }, {"stop string", "0 bytes"});
  refused([](StoppingSpec& s) { s.stop_strings = {std::string(257, 'x')}; }, {"257", "256"});
  refused([](StoppingSpec& s) { s.stop_token_ids.assign(65, 1); }, {"stop_token_ids", "65", "64"});
  refused([](StoppingSpec& s) { s.stop_token_ids = {kVocab}; }, {"stop_token_ids", "100"});
  refused([](StoppingSpec& s) { s.time_limit = absl::ZeroDuration(); }, {"time_limit is 0"});
  refused([](StoppingSpec& s) { s.time_limit = absl::Seconds(-2); }, {"time_limit is -2s"});
}

TEST(ValidateRequestIdTest, PrintableAsciiOnly) {
  EXPECT_TRUE(ValidateRequestId("").ok());
  EXPECT_TRUE(ValidateRequestId(std::string(128, '~')).ok());
  EXPECT_TRUE(ValidateRequestId("a-b_c.d/e:f!").ok());
  ExpectInvalid(ValidateRequestId(std::string(129, 'a')), {"129", "128"});
  ExpectInvalid(ValidateRequestId("tab\there"), {"byte 9", "offset 3"});
  ExpectInvalid(ValidateRequestId("caf\xc3\xa9"), {"byte 195", "offset 3"});
  ExpectInvalid(ValidateRequestId(std::string("nul\0", 4)), {"byte 0"});
}

}  // namespace
}  // namespace tauserve
