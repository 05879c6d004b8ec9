// Sequences without a server around them, and short ways to say what a step does.
#ifndef TAUSERVE_TESTS_SERVER_SCHEDULER_MADE_SEQUENCES_H_
#define TAUSERVE_TESTS_SERVER_SCHEDULER_MADE_SEQUENCES_H_

#include <memory>
#include <utility>
#include <vector>

#include "server/scheduler/scheduler.h"

namespace tauserve {

inline constexpr int kAll = 1 << 20;  // as many tokens of prompts as fit

// Requests are made in order of arrival, a millisecond apart.
inline std::shared_ptr<Request> MakeRequest(int prompt, int max_new, int first_token = 0,
                                            int priority = 0) {
  static absl::Time now = absl::UnixEpoch();
  auto request = std::make_shared<Request>();
  for (int i = 0; i < prompt; i++) request->prompt.push_back(first_token + i);
  request->stopping.max_new_tokens = max_new;
  request->priority = priority;
  request->arrival = now += absl::Milliseconds(1);
  return request;
}

inline std::unique_ptr<Sequence> MakeSequence(int prompt, int max_new, int first_token = 0,
                                              int priority = 0) {
  return std::make_unique<Sequence>(MakeRequest(prompt, max_new, first_token, priority));
}

// All of one request.
inline std::vector<std::unique_ptr<Sequence>> MakeCandidates(
    const std::shared_ptr<const Request>& request, int count) {
  std::vector<std::unique_ptr<Sequence>> candidates;
  for (int i = 0; i < count; i++) candidates.push_back(std::make_unique<Sequence>(request, i));
  return candidates;
}

inline std::vector<Sequence*> ForksOf(const std::vector<std::unique_ptr<Sequence>>& candidates) {
  std::vector<Sequence*> forks;
  for (size_t i = 1; i < candidates.size(); i++) forks.push_back(candidates[i].get());
  return forks;
}

// Appends a token to every sequence whose tokens are all computed.
inline void AppendTokens(const std::vector<Scheduler::Entry>& entries) {
  for (const Scheduler::Entry& e : entries) {
    if (e.sequence->remaining() == 0) e.sequence->Append(1);
  }
}

// Tokens of each entry of a step.
using Tokens = std::vector<std::pair<const Sequence*, int>>;
inline Tokens TokensOf(const Scheduler::Step& step) {
  Tokens tokens;
  for (const Scheduler::Entry& e : step.entries) tokens.emplace_back(e.sequence, e.num_tokens);
  return tokens;
}

}  // namespace tauserve

#endif  // TAUSERVE_TESTS_SERVER_SCHEDULER_MADE_SEQUENCES_H_
