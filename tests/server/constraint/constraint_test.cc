#include "server/constraint/constraint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "server/constraint/constraint_cache.h"
#include "tests/server/engine/fake_model.h"

namespace tauserve {
namespace {

using testing::HasSubstr;
using Kind = ConstraintSpec::Kind;

constexpr int64_t kBytes = 1 << 22;

// "live": a match may begin with it; "match": it is one; "dead".
std::string Verdict(const ConstraintSpec& spec, const std::string& text) {
  absl::StatusOr<Nfa> nfa = CompileNfa(spec);
  if (!nfa.ok()) return std::string(nfa.status().message());
  Automaton automaton(*std::move(nfa), kFakeVocab, kBytes);
  const Automaton::Place place = automaton.Follow(automaton.Start(), text);
  if (!place) return "dead";
  return Automaton::Complete(place) ? "match" : "live";
}
std::string OfRegex(const std::string& regex, const std::string& text) {
  return Verdict({Kind::kRegex, regex}, text);
}
std::string OfSchema(const std::string& schema, const std::string& text) {
  return Verdict({Kind::kJsonSchema, schema}, text);
}
std::string ErrorOf(Kind kind, const std::string& text) {
  FakeTokenizer tokenizer;
  ConstraintCache cache(&tokenizer, kFakeVocab, kBytes, nullptr);
  const auto constraint = cache.Get({kind, text});
  if (constraint.ok()) return "";
  EXPECT_EQ(constraint.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_LT(constraint.status().message().size(), 500);
  return std::string(constraint.status().message());
}

TEST(RegexTest, MatchesTheWholeText) {
  EXPECT_EQ(OfRegex("ab+", "a"), "live");
  EXPECT_EQ(OfRegex("ab+", "abb"), "match");
  EXPECT_EQ(OfRegex("ab+", "abc"), "dead");
  EXPECT_EQ(OfRegex("^(?:yes|no)$", "no"), "match");
  EXPECT_EQ(OfRegex("(?<a>x){2}|(?P<b>y)", "xx"), "match");
  EXPECT_EQ(OfRegex("[^a-c\\d]", "d"), "match");
  EXPECT_EQ(OfRegex("[^a-c\\d]", "7"), "dead");
  EXPECT_EQ(OfRegex("[]]", "]").substr(0, 15), "regex: position");
  EXPECT_EQ(OfRegex(".", "\n"), "dead");
  EXPECT_EQ(OfRegex("\\u{1F600}\\x41\\u00e9",
                    "\xf0\x9f\x98\x80"
                    "A\xc3\xa9"),
            "match");
}

TEST(RegexTest, BytesOfOneCharacterAreNoCharacters) {
  EXPECT_EQ(OfRegex("..", "\xc3\xa9"), "live");
  EXPECT_EQ(OfRegex("..", "\xc3\xa9\xc3\xa9"), "match");
  EXPECT_EQ(OfRegex(".", "\xc3"), "live");
  EXPECT_EQ(OfRegex(".", "\xed\xa0"), "dead");  // a surrogate
  EXPECT_EQ(OfRegex(".", "\xc0"), "dead");
  EXPECT_EQ(OfRegex(".", "\xf4\x90"), "dead");  // above U+10FFFF
}

TEST(RegexTest, ErrorsSayWhere) {
  for (const auto& [regex, message] : std::vector<std::pair<std::string, std::string>>{
           {"ab(c", "position 2: a ( without"},
           {"ab)c", "position 2: a ) without"},
           {"a[bc", "position 1: a [ without"},
           {"a|*", "position 2: a quantifier with nothing"},
           {"a**", "position 2: a quantifier behind"},
           {"a{3,1}", "{3,1} is empty"},
           {"a{100001}", "above 100000"},
           {"(?=a)", "position 1: groups (?...)"},
           {"(?i)a", "position 1: groups (?...)"},
           {"(a)\\1", "position 4: the escape \\1"},
           {"\\bword", "the escape \\b"},
           {"\\p{L}", "the escape \\p"},
           {"a$b", "something behind $"},
           {"a(^b)", "^ and $ are supported only"},
           {"[z-a]", "must go up"},
           {"\\ud800", "the escape \\u"},
           {"a\\", "a backslash at the end"},
           {"a\xff", "position 1: invalid UTF-8"},
           {"[^\\x00-\\u{10ffff}]", "matches nothing"},
           {"", "only the empty text"},
           {"(|)*", "only the empty text"}}) {
    EXPECT_THAT(ErrorOf(Kind::kRegex, regex), HasSubstr(message)) << regex;
  }
}

std::string Repeated(const std::string& text, int times) {
  std::string all;
  for (int i = 0; i < times; i++) all += text;
  return all;
}

// Each is refused, or compiled with its first masks, within a time that leaves room for a slow machine and sanitizers.
TEST(ConstraintTest, HostilePatternsAreBounded) {
  const std::string deep = Repeated("(", 5000) + "a" + Repeated(")", 5000);
  std::string wide = "[";
  for (int i = 0; i < 10000; i++) wide += absl::StrCat("\\u{", absl::Hex(0x10000 + 2 * i), "}");
  wide += "]{1000}";
  const std::vector<std::string> patterns = {"((a{1,1000}){1,1000})",
                                             "(((a{0,1000}){0,1000}){0,1000}){0,1000}",
                                             "(((){1000}){1000}){1000}",
                                             "(((((a?)*)*)*)*)*b",
                                             "(a|a)*(a|aa)*(a|aaa)*c",
                                             "((a?){1,300}){1,300}b",
                                             "(a|b)*a(a|b){20000}",
                                             "([a-z]{1,200}[a-z]{1,150}){1,150}",
                                             deep,
                                             wide,
                                             std::string(1 << 16, '('),
                                             std::string(1 << 16, 'a'),
                                             std::string((1 << 16) + 1, 'a')};
  FakeTokenizer tokenizer;
  for (const std::string& pattern : patterns) {
    const absl::Time begin = absl::Now();
    ConstraintCache cache(&tokenizer, kFakeVocab, kBytes, nullptr);
    const auto constraint = cache.Get({Kind::kRegex, pattern});
    if (constraint.ok()) {
      ConstraintMatcher matcher(*constraint);
      std::vector<uint64_t> mask((kFakeVocab + 63) / 64);
      for (int i = 0; i < 50 && matcher.FillMask(absl::MakeSpan(mask)).ok(); i++) {
        if ((mask['a' / 64] >> ('a' % 64) & 1) == 0) break;
        matcher.Accept('a');
      }
    }
    EXPECT_LT(absl::Now() - begin, absl::Seconds(20)) << pattern.substr(0, 60);
  }
}

TEST(ConstraintTest, HostileSchemasAreRefused) {
  const int n = 20000;
  EXPECT_THAT(ErrorOf(Kind::kJsonSchema, Repeated("{\"anyOf\":[", n) + "{}" + Repeated("]}", n)),
              HasSubstr("nested more than 64"));
  EXPECT_THAT(ErrorOf(Kind::kJsonSchema, Repeated("[", n)), HasSubstr("nested more than 64"));
  EXPECT_THAT(ErrorOf(Kind::kJsonSchema, std::string(kMaxSchemaBytes + 1, ' ')),
              HasSubstr("the limit is"));
  EXPECT_THAT(ErrorOf(Kind::kJsonSchema, R"({"$ref":"#"})"), HasSubstr("matches nothing"));
  EXPECT_THAT(ErrorOf(Kind::kJsonSchema, R"({"anyOf":[{"$ref":"#"},{"type":"null"}]})"),
              HasSubstr("without a value between"));
  EXPECT_THAT(ErrorOf(Kind::kJsonSchema,
                      R"({"type":"object","properties":{"a":{"$ref":"#"}},"required":["a"]})"),
              HasSubstr("matches nothing"));
  EXPECT_THAT(ErrorOf(Kind::kJsonSchema,
                      R"({"type":"array","minItems":100000,"items":{"maxLength":100000}})"),
              HasSubstr("too large"));
  // Each definition is built once, however often it is used: 4^29 values are no problem.
  std::string definitions = R"("l0":{"type":"null"})";
  for (int i = 1; i < 30; i++) {
    const std::string ref = absl::StrCat(R"({"$ref":"#/$defs/l)", i - 1, R"("})");
    absl::StrAppend(&definitions, ",\"l", i, R"(":{"type":"array","items":false,"minItems":4,)",
                    R"("prefixItems":[)", ref, ",", ref, ",", ref, ",", ref, "]}");
  }
  EXPECT_EQ(ErrorOf(Kind::kJsonSchema,
                    absl::StrCat(R"({"$ref":"#/$defs/l29","$defs":{)", definitions, "}}")),
            "");
}

TEST(JsonSchemaTest, ErrorsSayWhere) {
  for (const auto& [schema, message] : std::vector<std::pair<std::string, std::string>>{
           {"{", "not valid JSON"},
           {R"({"a":1,"a":2})", "\"a\" is there twice"},
           {"3", "the root: a schema must be"},
           {"false", "false allows no value"},
           {R"({"type":"strin"})", "/type: \"strin\" is no type"},
           {R"({"properties":{"a/b":{"multipleOf":2}}})",
            "/properties/a~1b: keyword 'multipleOf' is not supported"},
           {R"({"not":{}})", "the root: keyword 'not'"},
           {R"({"type":"array","uniqueItems":true})", "/uniqueItems"},
           {R"x({"type":"string","pattern":"a(?!b)"})x", "/pattern: position 2"},
           {R"({"type":"string","format":"email"})", "/format: \"email\" is not supported"},
           {R"({"type":"string","pattern":"a","maxLength":3})", "only one of"},
           {R"({"type":"string","minLength":-1})", "/minLength: is -1"},
           {R"({"minItems":3,"maxItems":2})", "minItems is 3, more than maxItems of 2"},
           {R"({"type":"integer","minimum":5,"maximum":4})", "no integer"},
           {R"({"type":"number","minimum":0.5})", "only where they are whole"},
           {R"({"type":"number","minimum":1e300})", "must be a number in"},
           {R"({"type":"object","required":["b"]})", "/required: \"b\" is not among"},
           {R"({"$ref":"http://x/y"})", "$ref \"http://x/y\" is not supported"},
           {R"({"$ref":"#/$defs/x"})", "leads to no schema"},
           {R"({"$ref":"#/$defs/x","type":"null","$defs":{"x":{}}})", "'type' is not supported"},
           {R"({"enum":[]})", "/enum: must be a list"},
           {R"({"enum":["a"],"type":"null"})", "no value of the schema's type"},
           {R"({"allOf":[{},{}]})", "/allOf: is supported with one"},
           {R"({"oneOf":[{"type":"integer"},{"type":"number"}]})", "/oneOf"},
           {R"({"anyOf":[{},{"minLenght":3}]})", "/anyOf/1: keyword 'minLenght'"}}) {
    EXPECT_THAT(ErrorOf(Kind::kJsonSchema, schema), HasSubstr(message)) << schema;
  }
}

TEST(JsonSchemaTest, EachKeyword) {
  struct Case {
    std::string schema;
    std::vector<std::string> matches, others;
  };
  for (const Case& c : std::vector<Case>{
           {R"({"type":["null","boolean"]})", {"null", "true", "false"}, {"1", "\"\""}},
           {R"({"enum":["a\n",1.5,{"x":[1]}]})", {R"("a\n")", "1.5", R"({"x": [1]})"}, {"1", "a"}},
           {R"({"enum":[1,"1",null],"type":"string"})", {"\"1\""}, {"1", "null"}},
           {R"({"const":[]})", {"[]", "[ ]"}, {"[1]"}},
           {R"({"type":"integer"})", {"0", "-12", "999999999999999999"}, {"01", "1.0", "1e3"}},
           {R"({"type":"integer","minimum":-5,"exclusiveMaximum":120})",
            {"-5", "0", "9", "42", "100", "119"},
            {"-6", "120", "121", "200", "-0", "007"}},
           {R"({"type":"integer","minimum":2.5,"maximum":3.5})", {"3"}, {"2", "4"}},
           {R"({"type":"number"})", {"0", "-1.5", "2e10", "0.001"}, {".5", "1.", "NaN", "1e400"}},
           {R"({"type":"number","minimum":0,"maximum":1})",
            {"0", "1", "0.5", "0.000001"},
            {"1.5", "-0.5", "2", "0.0"}},
           {R"({"type":"number","exclusiveMinimum":-2,"maximum":-1})",
            {"-1", "-1.5"},
            {"-2", "-0.5", "-2.5", "0"}},
           {R"({"type":"string","minLength":1,"maxLength":2})",
            {"\"a\"", "\"\xc3\xa9\xc3\xa9\"", R"("\"\n")"},
            {"\"\"", "\"abc\"", "\"\n\""}},
           {R"({"type":"string","pattern":"b\"$"})", {R"("ab\"")"}, {R"("b")", R"("b\"c")"}},
           {R"({"type":"string","format":"date"})", {"\"2024-01-31\""}, {"\"2024-02-30\""}},
           {R"({"type":"array"})", {"[]", "[1, \"a\", [null]]"}, {"[1,]", "[,1]"}},
           {R"({"items":{"type":"null"},"minItems":1,"maxItems":2})",
            {"[null]", "[null,\n  null]"},
            {"[]", "[null,null,null]", "[1]"}},
           {R"({"prefixItems":[{"const":1},{"const":2}],"items":false,"minItems":1})",
            {"[1]", "[1,2]"},
            {"[]", "[2]", "[1,2,3]"}},
           {R"({"type":"object"})", {"{}", R"({"a": {"b": []}})"}, {"{\"a\"}", "[]"}},
           {R"({"properties":{"a":{"const":1},"b":{"const":2},"c":{"const":3}},"required":["b"]})",
            {R"({"b":2})", R"({"a":1,"b":2})", R"({"b": 2, "c": 3})", "{\n  \"b\": 2\n}"},
            {"{}", R"({"a":1})", R"({"b":2,"a":1})", R"({"b":2,})", R"({"b":2,"d":1})"}},
           {R"({"properties":{"ab":{"const":1}},"additionalProperties":{"const":2}})",
            {R"({"ab":1})", R"({"a":2,"abc":2,"":2})", R"({"ab":1,"x":2})"},
            {R"({"ab":2})", R"({"x":1})", R"({"x":2,"ab":1})"}},
           {R"({"anyOf":[{"const":1},{"type":"null"}]})", {"1", "null"}, {"2"}},
           {R"({"oneOf":[{"type":"string"},{"type":"integer"}]})", {"\"\"", "7"}, {"null"}},
           {R"({"allOf":[{"type":"null"}],"title":"t","description":"d"})", {"null"}, {"1"}},
           {R"({"$ref":"#/$defs/t","$defs":{"t":{"type":"array","items":{"$ref":"#/$defs/t"}}}})",
            {"[]", "[[],[[]]]"},
            {"[1]"}}}) {
    for (const std::string& text : c.matches) {
      EXPECT_EQ(OfSchema(c.schema, text), "match") << c.schema << " " << text;
    }
    for (const std::string& text : c.others) {
      EXPECT_NE(OfSchema(c.schema, text), "match") << c.schema << " " << text;
    }
  }
}

// Nothing is begun that could not be finished at the limit of nesting.
TEST(JsonSchemaTest, NestingIsBounded) {
  const ConstraintSpec spec = {Kind::kJsonObject, ""};
  std::string text = "{\"a\":";
  while (Verdict(spec, text + "[") == "live") text += "[";
  const int depth = static_cast<int>(text.size()) - 5;
  EXPECT_GE(depth, 20);
  EXPECT_LE(depth, kMaxCallDepth);
  EXPECT_EQ(Verdict(spec, text + Repeated("]", depth) + "}"), "match");
}

TEST(ConstraintMatcherTest, MaskAndEnd) {
  FakeTokenizer tokenizer;
  ConstraintCache cache(&tokenizer, kFakeVocab, kBytes, nullptr);
  const auto constraint = cache.Get({Kind::kRegex, "ab?c|ad*"});
  ASSERT_TRUE(constraint.ok()) << constraint.status();
  ConstraintMatcher matcher(*constraint);
  const auto allowed = [&] {
    std::vector<uint64_t> mask((kFakeVocab + 63) / 64, ~uint64_t{0});
    EXPECT_TRUE(matcher.FillMask(absl::MakeSpan(mask)).ok());
    std::string tokens;
    for (int t = 0; t < kFakeVocab; t++) {
      if (mask[t / 64] >> (t % 64) & 1) tokens += static_cast<char>(t);
    }
    return tokens;
  };
  EXPECT_EQ(allowed(), "a");
  EXPECT_FALSE(matcher.complete());
  matcher.Accept('a');
  EXPECT_EQ(allowed(), "bcd");
  EXPECT_TRUE(matcher.complete());
  EXPECT_FALSE(matcher.final());
  ConstraintMatcher other = matcher;
  matcher.Accept('b');
  EXPECT_EQ(allowed(), "c");
  EXPECT_FALSE(matcher.complete());
  matcher.Accept('c');
  EXPECT_TRUE(matcher.final());
  EXPECT_EQ(allowed(), "");
  other.Accept('d');
  EXPECT_TRUE(other.complete());
  EXPECT_FALSE(other.final());
}

// With room for a few sets only, all is forgotten again and again, under matchers that are in the middle of a text.
TEST(ConstraintMatcherTest, ForgettingChangesNothing) {
  FakeTokenizer tokenizer;
  const ConstraintSpec spec = {Kind::kJsonObject, ""};
  absl::StatusOr<Nfa> nfa = CompileNfa(spec);
  ASSERT_TRUE(nfa.ok());
  Automaton small(*nfa, kFakeVocab, 500), large(*nfa, kFakeVocab, kBytes);
  const TokenTrie trie(tokenizer, false);
  const std::string text = R"({"a": [1, {"b": "x\n"}, [[]]], "c": null})";
  std::vector<Automaton::Place> places = {small.Start()};
  Automaton::Place place = large.Start();
  for (size_t i = 0; i < text.size(); i++) {
    places.push_back(small.Follow(places.back(), text.substr(i, 1)));
    place = large.Follow(place, text.substr(i, 1));
    ASSERT_TRUE(places.back() && place) << i;
    EXPECT_EQ(Automaton::Complete(places.back()), Automaton::Complete(place));
    Automaton::Place forgotten = places[i / 2];
    Automaton::Place known = large.Follow(large.Start(), text.substr(0, i / 2));
    const auto mask = small.Mask(forgotten, trie, false), expected = large.Mask(known, trie, false);
    ASSERT_TRUE(mask.ok() && expected.ok());
    EXPECT_EQ(**mask, **expected) << i;
  }
  EXPECT_TRUE(Automaton::Final(place));
  EXPECT_GT(small.sets_made(), 2 * large.sets_made());
}

TEST(ConstraintCacheTest, KeepsTheLastUsedWithinItsBytes) {
  FakeTokenizer tokenizer;
  ConstraintCache cache(&tokenizer, kFakeVocab, 20'000, nullptr);
  const auto get = [&](const std::string& regex) { return *cache.Get({Kind::kRegex, regex}); };
  const std::shared_ptr<Constraint> first = get("first");
  EXPECT_EQ(get("first"), first);
  for (int i = 0; i < 200; i++) {
    get(absl::StrCat("[a-z]{1,20}", i));
    EXPECT_EQ(get("first"), first);  // used again and again
    EXPECT_LE(cache.bytes(), 20'000);
  }
  const std::shared_ptr<Constraint> old = get("[a-z]{1,20}0");
  for (int i = 1; i < 200; i++) get(absl::StrCat("[a-z]{1,20}", i));
  EXPECT_NE(get("[a-z]{1,20}0"), old);
  EXPECT_FALSE(cache.Get({Kind::kNone, ""}).ok());
}

}  // namespace
}  // namespace tauserve
