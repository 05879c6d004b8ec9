#include "clients/cpp/top/monitor.h"

#include <limits>
#include <utility>

namespace tauserve::client::top {
namespace {

constexpr size_t kCurveValues = 128;  // more than are drawn

}  // namespace

Monitor::Monitor(std::string address, absl::Duration interval, int intervals, Scrape first)
    : address_(std::move(address)), interval_(interval), window_(intervals) {
  window_.Add(first.time, *std::move(first.samples));
  facts_ = FactsOf(window_);
  rows_ = FiguresOf(window_);
  curves_.resize(rows_.size());
}

void Monitor::Add(Scrape scrape) {
  failure_ = std::string(scrape.samples.status().message());
  if (scrape.samples.ok()) {
    window_.Add(scrape.time, *std::move(scrape.samples));
    facts_ = FactsOf(window_);
    rows_ = FiguresOf(window_);
  }
  for (size_t r = 0; r < rows_.size(); r++) {
    const double value = rows_[r].figures[rows_[r].curve].value;
    curves_[r].push_back(failure_.empty() ? value : std::numeric_limits<double>::quiet_NaN());
    if (curves_[r].size() > kCurveValues) curves_[r].pop_front();
  }
}

State Monitor::StateAt(absl::Time now) const {
  State state;
  state.address = address_;
  state.interval = interval_;
  state.span = window_.span();
  state.facts = facts_;
  state.rows = rows_;
  state.curves = curves_;
  state.now = now;
  state.scraped = window_.newest();
  state.failure = failure_;
  return state;
}

}  // namespace tauserve::client::top
