#include "tests/server/engine/fake_model.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <utility>

#include "absl/time/clock.h"
#include "kernels/check.h"
#include "tests/server/sampling/few_logits.h"

namespace tauserve {

int32_t FakeNext(int32_t last, int32_t position) {
  return 1 + static_cast<int32_t>((uint32_t(last) * 7919u + uint32_t(position) * 104729u) %
                                  (kFakeVocab - 1));
}

FakeModel::FakeModel(int32_t num_pages, int32_t max_context_tokens)
    : num_pages_(num_pages), cache_(size_t(num_pages) * kPageTokens, -1) {
  info_.name = "fake";
  info_.vocab_size = kFakeVocab;
  info_.max_context_tokens = max_context_tokens;
  info_.eos_token_ids = {kFakeEos};
}

absl::StatusOr<StepOutput> FakeModel::Run(const StepInput& input) {
  {
    std::unique_lock<std::mutex> lock(mutex_);
    while (hold_) {
      held_ = true;
      changed_.notify_all();
      changed_.wait(lock);
    }
    held_ = false;
    if (!failure_.ok()) return failure_;
  }
  std::set<PageId> copied;
  for (const PageCopy& copy : input.page_copies) {
    std::copy_n(cache_.begin() + int64_t{copy.from} * kPageTokens, kPageTokens,
                cache_.begin() + int64_t{copy.to} * kPageTokens);
    copied.insert(copy.from);
  }
  for (const PageCopy& copy : input.page_copies) {
    TAUSERVE_CHECK(!copied.contains(copy.to), "a page is both copied and written");
  }
  stats_.assign(input.slices.size(), AttentionStats());
  logits_.assign(input.logit_rows.size() * kFakeVocab, 0.0f);
  size_t logit = 0;
  std::set<int32_t> written;
  for (size_t s = 0; s < input.slices.size(); s++) {
    const SequenceSlice& slice = input.slices[s];
    auto slot = [&](int position) {
      return slice.pages[position / kPageTokens] * kPageTokens + position % kPageTokens;
    };
    for (int t = 0; t < slice.num_tokens; t++) {
      const int32_t at = slot(slice.context_tokens + t);
      TAUSERVE_CHECK(written.insert(at).second, "two sequences write to a slot");
      cache_[at] = input.tokens[slice.first_row + t];
    }
    stats_[s].keys_considered = stats_[s].support = slice.num_tokens;
  }
  for (size_t s = 0; s < input.slices.size(); s++) {
    const SequenceSlice& slice = input.slices[s];
    uint32_t sum = 0;
    for (int p = 0; p < slice.context_tokens + slice.num_tokens; p++) {
      const int32_t token = cache_[slice.pages[p / kPageTokens] * kPageTokens + p % kPageTokens];
      sum = sum * 31 + static_cast<uint32_t>(token);
      if (logit == input.logit_rows.size() ||
          input.logit_rows[logit] != slice.first_row + p - slice.context_tokens) {
        continue;
      }
      absl::Span<float> row = absl::MakeSpan(logits_).subspan(logit++ * kFakeVocab, kFakeVocab);
      row[FakeNext(static_cast<int32_t>(sum & 0xffff), p)] = 10;
      if (on_logits) on_logits(token, p, row);
    }
  }
  TAUSERVE_CHECK(logit == input.logit_rows.size(), "logit rows out of order");
  StepOutput output{logits_, {}, stats_};
  if (top_logits == 0) return output;
  device_logits_ = logits_;
  selected_.resize(logit);
  for (size_t r = 0; r < logit; r++) {
    const absl::Span<float> row = absl::MakeSpan(logits_).subspan(r * kFakeVocab, kFakeVocab);
    if (input.queries[r].whole) {
      whole_rows++;
    } else {
      FindFewLogits(row, input.queries[r], top_logits, &selected_[r]);
      std::fill(row.begin(), row.end(), std::nanf(""));
    }
  }
  output.top_logits = selected_;
  return output;
}

absl::StatusOr<absl::Span<const float>> FakeModel::WholeRow(int64_t logit_row) {
  fetched_rows++;
  if (!fetch_failure.ok()) return fetch_failure;
  return absl::MakeConstSpan(device_logits_).subspan(logit_row * kFakeVocab, kFakeVocab);
}

void FakeModel::FailWith(absl::Status status) {
  std::lock_guard<std::mutex> lock(mutex_);
  failure_ = std::move(status);
}
void FakeModel::Hold() {
  std::lock_guard<std::mutex> lock(mutex_);
  hold_ = true;
}
void FakeModel::WaitUntilHeld() {
  std::unique_lock<std::mutex> lock(mutex_);
  changed_.wait(lock, [this] { return held_; });
}
void FakeModel::Release() {
  std::lock_guard<std::mutex> lock(mutex_);
  hold_ = false;
  changed_.notify_all();
}

absl::StatusOr<std::vector<int32_t>> FakeTokenizer::Encode(absl::string_view text, bool) const {
  std::vector<int32_t> ids;
  for (char c : text) ids.push_back(static_cast<uint8_t>(c));
  return ids;
}
absl::StatusOr<std::vector<int32_t>> FakeTokenizer::EncodePieces(
    absl::Span<const TextPiece> pieces) const {
  std::string text;
  for (const TextPiece& piece : pieces) text += piece.text;
  return Encode(text, false);
}
absl::StatusOr<std::string> FakeTokenizer::Decode(absl::Span<const int32_t> ids, bool) const {
  std::string text;
  for (int32_t id : ids) text += TokenBytes(id, false);
  return text;
}
std::string FakeTokenizer::TokenBytes(int32_t id, bool) const {
  return id >= 0 && id < 256 ? std::string(1, static_cast<char>(id)) : "";
}

void RecordingSink::OnStarted(int32_t, int32_t cached_tokens) {
  std::lock_guard<std::mutex> lock(mutex_);
  TAUSERVE_CHECK(!started_ && ends_ == 0, "started twice, or after the end");
  started_ = true;
  cached_ = cached_tokens;
}
void RecordingSink::OnPrefillProgress(int32_t processed_tokens, int32_t,
                                      std::vector<TokenLogprob> logprobs) {
  std::lock_guard<std::mutex> lock(mutex_);
  TAUSERVE_CHECK(started_ && ends_ == 0 && deltas_.empty(), "progress out of order");
  progress_.push_back(processed_tokens);
  prompt_logprobs_.insert(prompt_logprobs_.end(), logprobs.begin(), logprobs.end());
}
void RecordingSink::OnDelta(Delta delta) {
  std::lock_guard<std::mutex> lock(mutex_);
  TAUSERVE_CHECK(started_ && ends_ == 0 && !finishes_.contains(delta.candidate),
                 "a delta out of order");
  Delta& all = all_[delta.candidate];
  all.text += delta.text;
  all.tokens.insert(all.tokens.end(), delta.tokens.begin(), delta.tokens.end());
  deltas_.push_back(std::move(delta));
  changed_.notify_all();
}
void RecordingSink::OnFinished(Finish finish) {
  std::lock_guard<std::mutex> lock(mutex_);
  TAUSERVE_CHECK(ends_ == 0, "finished after the end");
  const int32_t candidate = finish.candidate;
  TAUSERVE_CHECK(finishes_.try_emplace(candidate, std::move(finish)).second, "finished twice");
}
void RecordingSink::OnEnd(const Completion& completion) {
  if (on_end) on_end();
  std::lock_guard<std::mutex> lock(mutex_);
  TAUSERVE_CHECK(ends_ == 0, "ended twice");
  TAUSERVE_CHECK(completion.status.ok() == completion.reason.has_value(), "status and reason");
  TAUSERVE_CHECK(!completion.status.ok() || !finishes_.empty(), "OK without a finished candidate");
  ends_++;
  completion_ = completion;
  changed_.notify_all();
}

Completion RecordingSink::Wait() {
  std::unique_lock<std::mutex> lock(mutex_);
  changed_.wait(lock, [this] { return ends_ > 0; });
  return completion_;
}
void RecordingSink::WaitForTokens(size_t n) {
  std::unique_lock<std::mutex> lock(mutex_);
  changed_.wait(lock, [&] { return all_[0].tokens.size() >= n || ends_ > 0; });
}
std::vector<int32_t> RecordingSink::tokens(int32_t candidate) {
  std::lock_guard<std::mutex> lock(mutex_);
  return all_[candidate].tokens;
}
std::string RecordingSink::text(int32_t candidate) {
  std::lock_guard<std::mutex> lock(mutex_);
  return all_[candidate].text;
}
Finish RecordingSink::finish(int32_t candidate) {
  std::lock_guard<std::mutex> lock(mutex_);
  return finishes_.at(candidate);
}
int RecordingSink::finished() {
  std::lock_guard<std::mutex> lock(mutex_);
  return static_cast<int>(finishes_.size());
}
std::vector<TokenLogprob> RecordingSink::prompt_logprobs() {
  std::lock_guard<std::mutex> lock(mutex_);
  return prompt_logprobs_;
}
int32_t RecordingSink::cached_tokens() {
  std::lock_guard<std::mutex> lock(mutex_);
  return cached_;
}
std::vector<int32_t> RecordingSink::progress() {
  std::lock_guard<std::mutex> lock(mutex_);
  return progress_;
}
std::vector<Delta> RecordingSink::deltas() {
  std::lock_guard<std::mutex> lock(mutex_);
  return deltas_;
}
int RecordingSink::ends() {
  std::lock_guard<std::mutex> lock(mutex_);
  return ends_;
}

FakeRequest MakeFakeRequest(const std::string& id, int prompt, int max_new_tokens,
                            int32_t first_token) {
  FakeRequest f{std::make_shared<Request>(), std::make_shared<RecordingSink>()};
  f.request->id = id;
  for (int i = 0; i < prompt; i++) f.request->prompt.push_back((first_token + i) % kFakeVocab);
  f.request->sampling.temperature = 0;
  f.request->stopping.max_new_tokens = max_new_tokens;
  f.request->arrival = absl::Now();
  f.request->sink = f.sink;
  return f;
}

std::vector<int32_t> ExpectedTokens(const Request& request) {
  std::vector<int32_t> tokens = request.prompt, output;
  uint32_t sum = 0;
  for (int32_t t : tokens) sum = sum * 31 + static_cast<uint32_t>(t);
  while (static_cast<int32_t>(output.size()) < request.stopping.max_new_tokens) {
    const int position = static_cast<int>(request.prompt.size() + output.size()) - 1;
    output.push_back(FakeNext(static_cast<int32_t>(sum & 0xffff), position));
    sum = sum * 31 + static_cast<uint32_t>(output.back());
  }
  return output;
}

}  // namespace tauserve
