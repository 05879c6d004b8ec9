// Figures as lines of text, for a screen of any size or none.
#ifndef TAUSERVE_CLIENTS_CPP_TOP_VIEW_H_
#define TAUSERVE_CLIENTS_CPP_TOP_VIEW_H_

#include <deque>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "clients/cpp/top/figures.h"
#include "nlohmann/json.hpp"

namespace tauserve::client::top {

// What there is to show at one moment.
struct State {
  std::string address;
  absl::Duration interval;
  absl::Duration span;  // what rates and percentiles are of
  ServerFacts facts;
  std::vector<FigureRow> rows;
  std::vector<std::deque<double>> curves;  // of the rows, oldest first
  absl::Time now;
  absl::Time scraped;   // when the figures were read
  std::string failure;  // why they could not be read since; empty: they could
};

struct Look {
  bool utf8 = false;
  bool color = false;  // bold and red
};

// The best that this process' locale and environment allow.
Look LookOfProcess(bool screen);

// A line of `width` characters, the last for the newest value; as high as its share of the highest. What is not known is a
// gap.
std::string Sparkline(const std::deque<double>& values, int width, bool utf8);

// For a screen: as many lines and characters as it has, at most.
std::vector<std::string> ScreenLines(const State& state, int columns, int rows, const Look& look);
// For a file or a pipe: all figures, no curves.
std::vector<std::string> PlainLines(const State& state, const Look& look);
// One object for the figures by their keys, null where they are not known; or why there are none.
nlohmann::ordered_json JsonOf(const State& state);

}  // namespace tauserve::client::top

#endif  // TAUSERVE_CLIENTS_CPP_TOP_VIEW_H_
