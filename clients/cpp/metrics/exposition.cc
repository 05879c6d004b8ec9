#include "clients/cpp/metrics/exposition.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace tauserve::client {
namespace {

constexpr absl::string_view kBlanks = " \t";
constexpr size_t kShownBytes = 120;  // of a line that is wrong

bool IsNameByte(char c, bool first, bool colons) {
  return absl::ascii_isalpha(c) || c == '_' || (colons && c == ':') ||
         (!first && absl::ascii_isdigit(c));
}

// Takes a name off the front of `text`; empty if there is none.
absl::string_view TakeName(absl::string_view& text, bool colons) {
  size_t size = 0;
  while (size < text.size() && IsNameByte(text[size], size == 0, colons)) size++;
  const absl::string_view name = text.substr(0, size);
  text.remove_prefix(size);
  return name;
}

void SkipBlanks(absl::string_view& text) {
  text.remove_prefix(std::min(text.find_first_not_of(kBlanks), text.size()));
}

// What stands between quotes, the first of which has been taken.
std::optional<std::string> TakeQuoted(absl::string_view& text) {
  std::string value;
  while (!text.empty()) {
    char c = text.front();
    text.remove_prefix(1);
    if (c == '"') return value;
    if (c == '\\') {
      if (text.empty()) return std::nullopt;
      c = text.front();
      text.remove_prefix(1);
      if (c == 'n') {
        c = '\n';
      } else if (c != '\\' && c != '"') {
        return std::nullopt;
      }
    }
    value.push_back(c);
  }
  return std::nullopt;
}

// The labels after an opening brace, which has been taken, and the closing brace.
std::optional<Labels> TakeLabels(absl::string_view& text) {
  Labels labels;
  for (SkipBlanks(text); !absl::ConsumePrefix(&text, "}"); SkipBlanks(text)) {
    if (!labels.empty() && !absl::ConsumePrefix(&text, ",")) return std::nullopt;
    SkipBlanks(text);
    if (!labels.empty() && absl::ConsumePrefix(&text, "}")) break;  // a comma after the last one
    const absl::string_view name = TakeName(text, /*colons=*/false);
    SkipBlanks(text);
    if (name.empty() || !absl::ConsumePrefix(&text, "=")) return std::nullopt;
    SkipBlanks(text);
    if (!absl::ConsumePrefix(&text, "\"")) return std::nullopt;
    std::optional<std::string> value = TakeQuoted(text);
    if (!value || !labels.emplace(name, *std::move(value)).second) return std::nullopt;
  }
  return labels;
}

std::optional<double> ParseValue(absl::string_view text) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  if (text == "+Inf" || text == "Inf") return kInfinity;
  if (text == "-Inf") return -kInfinity;
  if (text == "NaN") return std::numeric_limits<double>::quiet_NaN();
  double value = 0;
  // Other spellings of infinity are not the format's.
  if (text.find_first_of("iInN") != absl::string_view::npos || !absl::SimpleAtod(text, &value)) {
    return std::nullopt;
  }
  return value;
}

struct Sample {
  Series series;
  double value = 0;
};

std::optional<Sample> ParseSample(absl::string_view line) {
  Sample sample;
  SkipBlanks(line);
  sample.series.name = std::string(TakeName(line, /*colons=*/true));
  if (sample.series.name.empty()) return std::nullopt;
  SkipBlanks(line);
  if (absl::ConsumePrefix(&line, "{")) {
    std::optional<Labels> labels = TakeLabels(line);
    if (!labels) return std::nullopt;
    sample.series.labels = *std::move(labels);
  } else if (line.empty() || !absl::StrContains(kBlanks, line.data()[-1])) {
    return std::nullopt;  // a name that ends in what is no part of it
  }
  const std::vector<absl::string_view> fields =
      absl::StrSplit(line, absl::ByAnyChar(kBlanks), absl::SkipEmpty());
  if (fields.empty() || fields.size() > 2) return std::nullopt;
  const std::optional<double> value = ParseValue(fields[0]);
  int64_t timestamp = 0;
  if (!value || (fields.size() == 2 && !absl::SimpleAtoi(fields[1], &timestamp))) {
    return std::nullopt;
  }
  sample.value = *value;
  return sample;
}

// Whether a line that begins with '#' is a comment, or says a family's help or type as it should.
bool IsComment(absl::string_view line, std::set<std::string>& typed) {
  line.remove_prefix(1);
  SkipBlanks(line);
  if (absl::ConsumePrefix(&line, "HELP ")) {
    SkipBlanks(line);
    return !TakeName(line, /*colons=*/true).empty() &&
           (line.empty() || absl::StrContains(kBlanks, line[0]));
  }
  if (!absl::ConsumePrefix(&line, "TYPE ")) return true;
  SkipBlanks(line);
  const std::string name(TakeName(line, /*colons=*/true));
  static const std::set<absl::string_view> kTypes = {"counter", "gauge", "histogram", "summary",
                                                     "untyped"};
  return !name.empty() && kTypes.contains(absl::StripAsciiWhitespace(line)) &&
         typed.insert(name).second;
}

absl::Status Refuse(int number, absl::string_view line, absl::string_view why) {
  std::string shown(line.substr(0, kShownBytes));
  for (char& c : shown) {
    if (absl::ascii_iscntrl(c)) c = '?';  // it is for terminals
  }
  return absl::InvalidArgumentError(absl::StrCat("line ", number, " ", why, ": ", shown));
}

}  // namespace

absl::StatusOr<Samples> ParseExposition(absl::string_view text) {
  Samples samples;
  std::set<std::string> typed;
  for (int number = 1; !text.empty(); number++) {
    const size_t end = text.find('\n');
    const absl::string_view line = text.substr(0, end);
    if (end == absl::string_view::npos) return Refuse(number, line, "is cut off");
    text.remove_prefix(end + 1);
    if (line.find_first_not_of(kBlanks) == absl::string_view::npos) continue;
    if (line[0] == '#') {
      if (!IsComment(line, typed)) return Refuse(number, line, "is no comment, HELP or TYPE");
      continue;
    }
    std::optional<Sample> sample = ParseSample(line);
    if (!sample) return Refuse(number, line, "is no sample");
    if (!samples.emplace(std::move(sample->series), sample->value).second) {
      return Refuse(number, line, "has a series that was there before");
    }
  }
  return samples;
}

std::string WrittenSeries(const Series& series) {
  if (series.labels.empty()) return series.name;
  const std::string labels =
      absl::StrJoin(series.labels, ",", [](std::string* text, const auto& label) {
        const std::string value =
            absl::StrReplaceAll(label.second, {{"\\", "\\\\"}, {"\n", "\\n"}, {"\"", "\\\""}});
        absl::StrAppend(text, label.first, "=\"", value, "\"");
      });
  return absl::StrCat(series.name, "{", labels, "}");
}

}  // namespace tauserve::client
