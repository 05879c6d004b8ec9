#include "clients/cpp/top/view.h"

#include <langinfo.h>

#include <algorithm>
#include <clocale>
#include <cmath>
#include <cstdlib>
#include <iterator>
#include <limits>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"

namespace tauserve::client::top {
namespace {

constexpr int kTitleColumns = 13;
constexpr int kValueColumns = 7;
constexpr int kLabelColumns = 11;
constexpr int kMaxCurve = 60;
constexpr int kScaleColumns = 12;  // what a curve's height is, where there is room
constexpr absl::Duration kJustStarted = absl::Minutes(1);

enum class Weight { kPlain, kBold, kAlarm };

struct Line {
  std::string text;
  Weight weight = Weight::kPlain;      // of the whole line, or of its title
  size_t weighty = std::string::npos;  // so many bytes of it
};

// The first `columns` characters; each is one column wide here.
std::string Clip(const std::string& text, int columns) {
  size_t end = 0;
  for (int characters = 0; end < text.size(); end++) {
    const bool begins = (text[end] & 0xc0) != 0x80;
    if (begins && characters++ == columns) break;
  }
  return text.substr(0, end);
}

// What a server says of itself must not move the cursor.
std::string Printable(std::string text) {
  for (char& c : text) {
    if (absl::ascii_iscntrl(c)) c = '?';
  }
  return text;
}

std::string Paint(const Line& line, int columns, bool color) {
  const std::string text = Clip(Printable(line.text), columns);
  if (!color || line.weight == Weight::kPlain) return text;
  const size_t end = std::min(line.weighty, text.size());
  return absl::StrCat(line.weight == Weight::kBold ? "\x1b[1m" : "\x1b[1;31m", text.substr(0, end),
                      "\x1b[m", text.substr(end));
}

// "3 s", "12 min", "5 h 3 min".
std::string Age(absl::Duration age) {
  const int64_t seconds = std::max<int64_t>(0, absl::ToInt64Seconds(age));
  if (seconds < 120) return absl::StrCat(seconds, " s");
  if (seconds < 7200) return absl::StrCat(seconds / 60, " min");
  if (seconds < 2 * 86400) {
    return absl::StrCat(seconds / 3600, " h ", seconds % 3600 / 60, " min");
  }
  return absl::StrCat(seconds / 86400, " d ", seconds % 86400 / 3600, " h");
}

Line FactsLine(const State& state, const Look& look) {
  const ServerFacts& f = state.facts;
  return {absl::StrCat(f.model, " (", f.architecture, ", ", look.utf8 ? "α " : "alpha ", f.alpha,
                       ") on ", f.device, ", version ", f.version),
          Weight::kBold, f.model.size()};
}

// What is wrong comes first.
Line StateLine(const State& state) {
  const std::string at =
      absl::StrCat(state.address, ", every ", absl::FormatDuration(state.interval));
  const absl::Duration up = state.now - state.facts.started;
  const std::string started =
      state.facts.started == absl::InfinitePast() ? "" : absl::StrCat(", up ", Age(up));
  if (!state.failure.empty()) {
    return {absl::StrCat("NO ANSWER, figures are ", Age(state.now - state.scraped),
                         " old: ", state.failure),
            Weight::kAlarm};
  }
  if (state.facts.stuck) {
    return {absl::StrCat("ENGINE STUCK: it has work and does not move; ", at, started),
            Weight::kAlarm};
  }
  if (state.facts.draining) {
    return {absl::StrCat("DRAINING: new requests are refused; ", at, started), Weight::kAlarm};
  }
  if (up < kJustStarted) {
    return {absl::StrCat("STARTED ", Age(up), " ago; ", at), Weight::kBold};
  }
  return {absl::StrCat("live: ", at, ", rates of ",
                       absl::StrFormat("%.1f s", absl::ToDoubleSeconds(state.span)), started)};
}

std::string FiguresText(const FigureRow& row, const Look& look) {
  std::string title = row.title;
  if (look.utf8) title = absl::StrReplaceAll(title, {{"Tau ", "τ "}});
  // By characters: τ has two bytes.
  const int padding = kTitleColumns - static_cast<int>(title.size()) + (title[0] == '\xcf');
  std::string text = title + std::string(std::max(0, padding), ' ');
  for (const Figure& figure : row.figures) {
    absl::StrAppendFormat(&text, "%*s %-*s", kValueColumns, FormatFigure(figure.value, figure.unit),
                          kLabelColumns, figure.label);
  }
  return text;
}

double Highest(const std::deque<double>& values, int width) {
  double highest = std::numeric_limits<double>::quiet_NaN();
  for (size_t i = values.size() - std::min<size_t>(values.size(), width); i < values.size(); i++) {
    if (std::isfinite(values[i])) highest = std::fmax(highest, values[i]);
  }
  return highest;
}

Line RowLine(const State& state, size_t row, int columns, const Look& look) {
  const FigureRow& figures = state.rows[row];
  std::string text = FiguresText(figures, look);
  const int used = kTitleColumns +
                   static_cast<int>(figures.figures.size()) * (kValueColumns + 1 + kLabelColumns);
  // A terminal's last column stays empty: a line that fills it may wrap.
  int room = std::min(columns - 1 - used, kMaxCurve + kScaleColumns);
  const bool scale = room >= 2 * kScaleColumns;
  if (scale) room -= kScaleColumns;
  if (room > 0) {
    absl::StrAppend(&text, Sparkline(state.curves[row], room, look.utf8));
    const double highest = Highest(state.curves[row], room);
    if (scale && std::isfinite(highest)) {
      absl::StrAppend(&text, " to ", FormatFigure(highest, figures.figures[figures.curve].unit));
    }
  }
  return {text, Weight::kBold, text.find("  ")};
}

}  // namespace

Look LookOfProcess(bool screen) {
  std::setlocale(LC_CTYPE, "");
  Look look;
  look.utf8 = absl::string_view(nl_langinfo(CODESET)) == "UTF-8";
  const char* no_color = std::getenv("NO_COLOR");
  look.color = screen && (no_color == nullptr || *no_color == '\0');
  return look;
}

std::string Sparkline(const std::deque<double>& values, int width, bool utf8) {
  static constexpr const char* kBlocks[] = {"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
  static constexpr const char* kAscii[] = {"_", ".", "-", "=", "+", "*", "%", "#"};
  constexpr int kLevels = static_cast<int>(std::size(kBlocks));
  const double highest = Highest(values, width);
  const int known = std::min<int>(width, values.size());
  std::string line(width - known, ' ');
  for (size_t i = values.size() - known; i < values.size(); i++) {
    if (!std::isfinite(values[i])) {
      line += ' ';
      continue;
    }
    const double share = highest > 0 ? std::clamp(values[i] / highest, 0.0, 1.0) : 0;
    const int level = static_cast<int>(std::lround(share * (kLevels - 1)));
    line += (utf8 ? kBlocks : kAscii)[level];
  }
  return line;
}

std::vector<std::string> ScreenLines(const State& state, int columns, int rows, const Look& look) {
  std::vector<Line> lines = {FactsLine(state, look), StateLine(state), {}};
  for (size_t r = 0; r < state.rows.size(); r++) lines.push_back(RowLine(state, r, columns, look));
  lines.push_back({});
  lines.push_back({"q: quit"});
  if (lines.size() > rows) lines.resize(std::max(rows, 1));
  std::vector<std::string> texts;
  for (const Line& line : lines) texts.push_back(Paint(line, columns - 1, look.color));
  return texts;
}

std::vector<std::string> PlainLines(const State& state, const Look& look) {
  std::vector<std::string> texts = {Printable(FactsLine(state, look).text),
                                    Printable(StateLine(state).text)};
  if (!state.failure.empty()) return texts;
  for (const FigureRow& row : state.rows) {
    std::string text = FiguresText(row, look);
    text.erase(text.find_last_not_of(' ') + 1);
    texts.push_back(std::move(text));
  }
  return texts;
}

nlohmann::ordered_json JsonOf(const State& state) {
  nlohmann::ordered_json json;
  json["time"] = absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", state.now, absl::UTCTimeZone());
  json["server"] = state.address;
  if (!state.failure.empty()) {
    json["error"] = state.failure;
    return json;
  }
  json["model"] = state.facts.model;
  json["device"] = state.facts.device;
  json["version"] = state.facts.version;
  if (state.facts.started != absl::InfinitePast()) {
    json["uptime_seconds"] = absl::ToDoubleSeconds(state.now - state.facts.started);
  }
  json["stuck"] = state.facts.stuck;
  json["draining"] = state.facts.draining;
  json["interval_seconds"] = absl::ToDoubleSeconds(state.span);
  for (const FigureRow& row : state.rows) {
    for (const Figure& figure : row.figures) {
      if (std::isfinite(figure.value)) {
        json[figure.key] = figure.value;
      } else {
        json[figure.key] = nullptr;
      }
    }
  }
  return json;
}

}  // namespace tauserve::client::top
