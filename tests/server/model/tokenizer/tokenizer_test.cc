// What the comparison with other implementations can't show: UTF-8 at its edges, hostile sizes, and broken files.
#include "server/model/tokenizer/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "nlohmann/json.hpp"
#include "server/model/tokenizer/bpe.h"
#include "server/model/tokenizer/utf8.h"

namespace tauserve {
namespace {

using testing::HasSubstr;

TEST(Utf8Test, FindsTheFirstInvalidByte) {
  EXPECT_EQ(FindInvalidUtf8("gr\xc3\xbc\xc3\x9f \xf0\x9f\x98\x80"), absl::string_view::npos);
  EXPECT_EQ(FindInvalidUtf8("ab\xff"), 2u);
  EXPECT_EQ(FindInvalidUtf8("ab\xc3"), 2u);             // cut off
  EXPECT_EQ(FindInvalidUtf8("a\xed\xa0\x80"), 1u);      // a surrogate
  EXPECT_EQ(FindInvalidUtf8("a\xc0\x80"), 1u);          // overlong
  EXPECT_EQ(FindInvalidUtf8("a\xf4\x90\x80\x80"), 1u);  // beyond U+10FFFF
}

TEST(Utf8Test, ReplacesMaximalParts) {
  std::string text;
  EXPECT_EQ(DecodeUtf8("a\xf0\x9f\x98z\xe2\x82", false, text), "\xe2\x82");
  EXPECT_EQ(text, "a\xef\xbf\xbdz");
  text.clear();
  EXPECT_EQ(DecodeUtf8("\xed\xa0\x80", false, text), "");
  EXPECT_EQ(text, "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd");
  text.clear();
  EXPECT_EQ(DecodeUtf8("a\xf0\x9f\x98z", true, text), "");
  EXPECT_EQ(text, "a\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbdz");
}

TEST(BpeTest, LowestRankFirstThenLeftmost) {
  BpeMerges merges;
  merges.Add(1, 1, 0, 2);  // aa
  merges.Add(2, 1, 1, 3);  // aa a
  std::vector<int32_t> symbols = {1, 1, 1, 1, 1};
  merges.Apply(symbols);
  EXPECT_EQ(symbols, (std::vector<int32_t>{2, 3}));
  symbols.clear();
  merges.Apply(symbols);
  EXPECT_TRUE(symbols.empty());
}

class TokenizerFileTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = testing::TempDir() + "/tokenizer_test_" + std::to_string(getpid());
    std::filesystem::create_directories(folder_);
    std::ifstream file("models/recall-9m/tokenizer.json");
    json_ = nlohmann::json::parse(file);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  absl::StatusOr<std::unique_ptr<Tokenizer>> Load(const std::string& text) {
    std::ofstream(folder_ + "/tokenizer.json") << text;
    return LoadTokenizer(folder_);
  }
  void ExpectRefused(const std::string& text, const std::string& what) {
    const auto tokenizer = Load(text);
    ASSERT_FALSE(tokenizer.ok());
    EXPECT_THAT(std::string(tokenizer.status().message()),
                testing::AllOf(HasSubstr("tokenizer.json"), HasSubstr(what)));
  }
  std::string folder_;
  nlohmann::json json_;
};

TEST_F(TokenizerFileTest, RefusesInvalidTextWithItsPlace) {
  const auto tokenizer = Load(json_.dump());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const auto ids = (*tokenizer)->Encode("abc\xff", true);
  EXPECT_EQ(ids.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(ids.status().message()), HasSubstr("byte 3"));
  const std::vector<int32_t> bad = {4096};
  EXPECT_FALSE((*tokenizer)->Decode(bad, true).ok());
}

TEST_F(TokenizerFileTest, ControlTokensOnlyInTrustedPieces) {
  const auto tokenizer = Load(json_.dump());
  ASSERT_TRUE(tokenizer.ok());
  const auto ids = [&](const std::vector<TextPiece>& pieces) {
    return (*tokenizer)->EncodePieces(pieces).value();
  };
  const std::vector<int32_t> text = ids({{"<|eos|>", false}});
  EXPECT_GT(text.size(), 1u);
  EXPECT_EQ((*tokenizer)->Decode(text, true).value(), "<|eos|>");
  EXPECT_EQ(ids({{"<|eos|>", true}}), std::vector<int32_t>{1});
  // All of its text must be trusted.
  EXPECT_GT(ids({{"<|eo", true}, {"s|>", false}}).size(), 1u);
  EXPECT_GT(ids({{"<|eo", false}, {"s|>", true}}).size(), 1u);
  EXPECT_EQ(ids({{"<|eo", true}, {"s|>", true}}), std::vector<int32_t>{1});
  // Otherwise pieces are one text.
  EXPECT_EQ(ids({{"Once up", true}, {"on a ti", false}, {"me", true}}),
            (*tokenizer)->Encode("Once upon a time", false).value());
  EXPECT_TRUE(ids({}).empty());
  EXPECT_FALSE((*tokenizer)->EncodePieces({{TextPiece{"a\xff", false}}}).ok());
}

TEST_F(TokenizerFileTest, LongWordsAndLongTextsAreFast) {
  const auto tokenizer = Load(json_.dump());
  ASSERT_TRUE(tokenizer.ok());
  const std::string word(1 << 20, 'a');  // would take hours if merging were quadratic
  EXPECT_TRUE((*tokenizer)->Encode(word, true).ok());
  const std::string spaces(1 << 20, ' ');
  EXPECT_TRUE((*tokenizer)->Encode(spaces, true).ok());
}

TEST_F(TokenizerFileTest, AStringPatternStandsForItself) {
  const std::string text = "a\\E.*b\\E.*c";
  json_["pre_tokenizer"]["pretokenizers"][0] = {{"type", "Split"},
                                                {"pattern", {{"String", "\\E.*"}}},
                                                {"behavior", "Removed"},
                                                {"invert", false}};
  const auto tokenizer = Load(json_.dump());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const std::vector<int32_t> ids = (*tokenizer)->Encode(text, false).value();
  EXPECT_EQ((*tokenizer)->Decode(ids, true).value(), "abc");
}

TEST_F(TokenizerFileTest, BrokenFilesAreRefused) {
  const std::string good = json_.dump();
  ExpectRefused("", "parse error");
  ExpectRefused(good.substr(0, good.size() / 2), "parse error");
  ExpectRefused("[]", "type");
  ExpectRefused("{}", "model");
  auto with = [&](auto change) {
    nlohmann::json j = json_;
    change(j);
    return j.dump();
  };
  ExpectRefused(with([](auto& j) { j["model"]["type"] = "WordPiece"; }), "WordPiece");
  ExpectRefused(with([](auto& j) { j["model"]["vocab"] = nlohmann::json::object(); }), "empty");
  ExpectRefused(with([](auto& j) { j["model"]["vocab"]["zzz"] = -1; }), "-1");
  ExpectRefused(with([](auto& j) { j["model"]["vocab"]["zzz"] = 1e12; }), "zzz");
  ExpectRefused(with([](auto& j) { j["model"]["vocab"]["zzz"] = 300; }), "300");
  ExpectRefused(with([](auto& j) { j["model"]["merges"].push_back("no merge"); }),
                "not in the vocabulary");
  ExpectRefused(with([](auto& j) { j["model"]["merges"].push_back(7); }), "type");
  ExpectRefused(with([](auto& j) { j["pre_tokenizer"]["type"] = "Bert"; }), "Bert");
  ExpectRefused(with([](auto& j) {
                  j["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "(unclosed";
                }),
                "unclosed");
  // A part of a character is no word.
  ExpectRefused(
      with([](auto& j) { j["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "\\C"; }),
      "pattern");
  ExpectRefused(with([](auto& j) { j["model"]["vocab"]["zzz"] = 1 << 21; }), "2097152");
  std::string nested = R"({"type":"NFC"})";
  for (int i = 0; i < 10000; i++) {
    nested = R"({"type":"Sequence","normalizers":[)" + nested + "]}";
  }
  ExpectRefused(R"({"model":{},"normalizer":)" + nested + "}", "nested deeper than 64");
  ExpectRefused(with([](auto& j) { j["normalizer"] = {{"type", "Nmt"}}; }), "Nmt");
  ExpectRefused(with([](auto& j) { j["decoder"]["type"] = "WordPiece"; }), "WordPiece");
  ExpectRefused(with([](auto& j) { j["added_tokens"][0]["id"] = 3000; }), "");
}

TEST(LoadTokenizerTest, NamesTheFolderWithoutTokenizer) {
  const auto tokenizer = LoadTokenizer("/nonexistent");
  EXPECT_EQ(tokenizer.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(tokenizer.status().message()), HasSubstr("/nonexistent"));
}

}  // namespace
}  // namespace tauserve
