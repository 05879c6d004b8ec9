// Results on their way from the engine to one client. The engine puts them in without ever waiting; the call takes them
// out as fast as its client reads. What a slow client has not fetched is merged (the latest progress, one delta of each
// candidate), so the memory is bounded by the output itself.
#ifndef TAUSERVE_SERVER_RPC_OUTBOX_H_
#define TAUSERVE_SERVER_RPC_OUTBOX_H_

#include <map>
#include <optional>
#include <utility>
#include <variant>
#include <vector>

#include "server/request/request.h"

namespace tauserve {

// Not thread-safe: its call's mutex guards it.
class Outbox {
 public:
  struct Started {
    int32_t prompt_tokens;
    int32_t cached_tokens;
  };
  struct Progress {
    int32_t processed_tokens;
    int32_t total_tokens;
    std::vector<TokenLogprob> logprobs;
  };
  using Event = std::variant<std::monostate, Started, Progress, Delta, Finish, Completion>;

  void Put(Started started) { started_ = started; }
  void Put(Progress progress);
  void Put(Delta delta);
  void Put(Finish finish);
  void Put(Completion completion) { end_ = std::move(completion); }

  // The next event in the stream's order; monostate if there is none yet. A Completion is the last.
  Event Take();

 private:
  std::optional<Started> started_;
  std::optional<Progress> progress_;
  struct Candidate {
    std::optional<Delta> delta;
    std::optional<Finish> finish;
  };
  std::map<int32_t, Candidate> candidates_;  // that have something to tell
  int32_t next_candidate_ = 0;               // whose turn it is
  std::optional<Completion> end_;
};

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_RPC_OUTBOX_H_
