// Finds stop strings in text that comes in pieces. Text that may still become a stop string is held back, so that no
// part of one is ever shown.
#ifndef TAUSERVE_SERVER_REQUEST_STOP_MATCHER_H_
#define TAUSERVE_SERVER_REQUEST_STOP_MATCHER_H_

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

namespace tauserve {

class StopMatcher {
 public:
  StopMatcher(std::vector<std::string> stops, bool include_stop)
      : stops_(std::move(stops)), include_stop_(include_stop) {}

  // Takes the next piece and returns the text that may be shown. After a match nothing more is taken. While `armed` is
  // false a stop string that ends in this piece is not a match; one that only begins in it may become one later.
  std::string Append(const std::string& piece, bool armed = true);
  // What was held back; the text has ended.
  std::string Flush();

  bool matched() const { return matched_; }
  const std::string& match() const { return match_; }  // the stop string

 private:
  std::vector<std::string> stops_;
  bool include_stop_;
  std::string held_;
  size_t unarmed_ = 0;  // bytes at the front of held_ in which no match may end
  bool matched_ = false;
  std::string match_;
};

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_REQUEST_STOP_MATCHER_H_
