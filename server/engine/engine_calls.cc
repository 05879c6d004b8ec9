// The callers' side of the engine: any thread, under the mutex, never longer than a few lookups (Drain and
// ClearPrefixCache wait, by their nature).
#include <algorithm>
#include <future>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "server/engine/engine_loop.h"

namespace tauserve {

absl::Status Engine::Loop::Submit(std::shared_ptr<const Request> request) {
  const int32_t most = std::min(options_.max_running_requests, options_.max_batched_tokens);
  if (request->sampling.num_candidates > most) {
    return absl::InvalidArgumentError(
        absl::StrCat("num_candidates is ", request->sampling.num_candidates, ", more than the ",
                     most, " that run here at once"));
  }
  const int64_t longest = int64_t{model_->num_pages()} * kPageTokens + 1;
  const int64_t tokens =
      static_cast<int64_t>(request->prompt.size()) + request->stopping.max_new_tokens;
  if (tokens > longest) {
    return absl::InvalidArgumentError(
        absl::StrCat("prompt of ", request->prompt.size(), " tokens plus max_new_tokens of ",
                     request->stopping.max_new_tokens, " is more than the ", longest,
                     " tokens that the KV cache holds"));
  }
  std::lock_guard<std::mutex> lock(mutex_);
  if (!failure_.ok()) return absl::InternalError(failure_.message());
  if (draining_) return absl::UnavailableError("the server is draining");
  const int64_t waiting = load_.waiting_requests + static_cast<int64_t>(inbox_.submitted.size());
  if (waiting >= options_.max_waiting_requests) {
    return absl::ResourceExhaustedError(absl::StrCat("the queue is full: ", waiting,
                                                     " requests wait, the limit is ",
                                                     options_.max_waiting_requests));
  }
  const int64_t waiting_tokens = load_.waiting_prompt_tokens + inbox_prompt_tokens_;
  const int64_t prompt_tokens = request->prompt.size();
  if (waiting > 0 && waiting_tokens + prompt_tokens > options_.max_waiting_prompt_tokens) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "the queue is full: prompts of ", waiting_tokens, " tokens wait, with this one's ",
        prompt_tokens, " more than the limit of ", options_.max_waiting_prompt_tokens));
  }
  if (waiting > 0 && mean_service_) {
    const absl::Duration left = request->deadline - absl::Now();
    const absl::Duration wait = waiting * *mean_service_;
    if (wait > left) {
      return absl::DeadlineExceededError(absl::StrCat(
          "the deadline is ", absl::FormatDuration(std::max(left, absl::ZeroDuration())),
          " away, and ", waiting, " requests that wait take about ", absl::FormatDuration(wait)));
    }
  }
  if (!in_flight_.try_emplace(request->id, request).second) {
    return absl::AlreadyExistsError(
        absl::StrCat("a request with id '", request->id, "' is in flight"));
  }
  inbox_prompt_tokens_ += request->prompt.size();
  inbox_.submitted.push_back(std::move(request));
  wake_.notify_one();
  return absl::OkStatus();
}

void Engine::Loop::Cancel(const std::string& request_id) {
  std::lock_guard<std::mutex> lock(mutex_);
  const auto it = in_flight_.find(request_id);
  if (it == in_flight_.end()) return;
  inbox_.endings.emplace_back(it->second, Ending::kCancelled);
  wake_.notify_one();
}

std::vector<std::string> Engine::Loop::Abort(absl::Span<const std::string> request_ids) {
  return EndAll(request_ids, Ending::kAborted);
}

// All of those in flight, if `request_ids` is empty.
std::vector<std::string> Engine::Loop::EndAll(absl::Span<const std::string> request_ids,
                                              Ending ending) {
  std::lock_guard<std::mutex> lock(mutex_);
  std::vector<std::string> found;
  auto end = [&](const auto& id_and_request) {
    found.push_back(id_and_request.first);
    inbox_.endings.emplace_back(id_and_request.second, ending);
  };
  if (request_ids.empty()) {
    for (const auto& entry : in_flight_) end(entry);
    std::sort(found.begin(), found.end());
  }
  for (const std::string& id : request_ids) {
    if (const auto it = in_flight_.find(id); it != in_flight_.end()) end(*it);
  }
  wake_.notify_one();
  return found;
}

int32_t Engine::Loop::Drain(absl::Duration timeout) {
  std::unique_lock<std::mutex> lock(mutex_);
  draining_ = true;
  auto idle = [this] { return in_flight_.empty() && telling_ == 0; };
  timeout = std::clamp(timeout, absl::ZeroDuration(), absl::Hours(24 * 365));
  if (idle_.wait_for(lock, absl::ToChronoNanoseconds(timeout), idle)) return 0;
  lock.unlock();
  const int32_t aborted = static_cast<int32_t>(EndAll({}, Ending::kDrained).size());
  lock.lock();
  idle_.wait(lock, idle);
  return aborted;
}

int64_t Engine::Loop::ClearPrefixCache() {
  auto dropped = std::make_shared<std::promise<int64_t>>();
  std::future<int64_t> result = dropped->get_future();
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (stop_) return 0;
    inbox_.calls.push_back([this, dropped] { dropped->set_value(pool_.DropKept()); });
    wake_.notify_one();
  }
  return result.get();
}

EngineLoad Engine::Loop::load() const {
  std::lock_guard<std::mutex> lock(mutex_);
  EngineLoad load = load_;
  load.waiting_requests += static_cast<int32_t>(inbox_.submitted.size());
  load.waiting_prompt_tokens += inbox_prompt_tokens_;
  load.draining = draining_;
  return load;
}

EnginePulse Engine::Loop::pulse() const {
  const std::optional<uint64_t> progress = model_->progress();
  EnginePulse pulse;
  pulse.idle = asleep_;
  pulse.beats = turns_ + progress.value_or(0);
  if (!progress) pulse.longest_quiet_step = absl::Nanoseconds(longest_step_ns_.load());
  return pulse;
}

absl::Duration Engine::Loop::RetryDelay() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return std::clamp(mean_service_.value_or(absl::Seconds(1)), absl::Milliseconds(10),
                    absl::Minutes(1));
}

void Engine::Loop::Shutdown() {
  Drain(absl::ZeroDuration());
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
    wake_.notify_one();
  }
  std::lock_guard<std::mutex> lock(join_mutex_);
  if (thread_.joinable()) thread_.join();
}

}  // namespace tauserve
