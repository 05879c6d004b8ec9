// A model without weights, a tokenizer without a file, and a sink that records: what tests of the engine stand on. The
// model's next token is a function of the tokens so far, so what a request should get is known without running it.
#ifndef TAUSERVE_TESTS_SERVER_ENGINE_FAKE_MODEL_H_
#define TAUSERVE_TESTS_SERVER_ENGINE_FAKE_MODEL_H_

#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "server/model/model.h"
#include "server/model/tokenizer/tokenizer.h"
#include "server/request/request.h"

namespace tauserve {

inline constexpr int kFakeVocab = 300;
inline constexpr int32_t kFakeEos = 0;

// The token that the fake model finds most probable after `last` at `position`: never kFakeEos.
int32_t FakeNext(int32_t last, int32_t position);

class FakeModel : public LanguageModel {
 public:
  explicit FakeModel(int32_t num_pages, int32_t max_context_tokens = 1 << 20);

  const ModelInfo& info() const override { return info_; }
  int32_t num_pages() const override { return num_pages_; }
  // Copies pages first. Checks that each slot is written by one sequence and that no page is both copied and written;
  // logits follow from the tokens that the cache holds then, so a page that another sequence wrote to would show.
  absl::StatusOr<StepOutput> Run(const StepInput& input) override;
  absl::StatusOr<absl::Span<const float>> WholeRow(int64_t logit_row) override;

  // Every Run from now on gives this error, if it is one.
  void FailWith(absl::Status status);
  // While held, Run waits at its start. WaitUntilHeld returns when it does.
  void Hold();
  void WaitUntilHeld();
  void Release();

  // Where above 0: the model gives, as on a device with its own memory, so many of the largest logits of rows that are
  // not wanted whole, and of these rows nothing else. Set before the first request, as is what fetching rows gives.
  int top_logits = 0;
  absl::Status fetch_failure;
  // Logit rows wanted whole, and rows fetched by WholeRow. Read them when the engine has nothing to do.
  int whole_rows = 0, fetched_rows = 0;
  // Replaces the logits of a row: (last token, position, logits).
  std::function<void(int32_t, int32_t, absl::Span<float>)> on_logits;

 private:
  ModelInfo info_;
  const int32_t num_pages_;
  std::vector<int32_t> cache_;  // [pages * kPageTokens]: the token in each slot
  std::vector<float> logits_;
  std::vector<float> device_logits_;
  std::vector<TopLogits> selected_;
  std::vector<AttentionStats> stats_;

  std::mutex mutex_;
  std::condition_variable changed_;
  bool hold_ = false;
  bool held_ = false;
  absl::Status failure_;
};

// Token t is the byte t; tokens from 256 on are empty; kFakeEos is special.
class FakeTokenizer : public Tokenizer {
 public:
  int32_t vocab_size() const override { return kFakeVocab; }
  absl::StatusOr<std::vector<int32_t>> Encode(absl::string_view text, bool) const override;
  absl::StatusOr<std::vector<int32_t>> EncodePieces(
      absl::Span<const TextPiece> pieces) const override;
  absl::StatusOr<std::string> Decode(absl::Span<const int32_t> ids, bool) const override;
  std::string TokenBytes(int32_t id, bool) const override;
  std::string TokenString(int32_t id) const override { return TokenBytes(id, false); }
  bool IsSpecial(int32_t id) const override { return id == kFakeEos; }
};

// Records what it is told; fails the test if the order of events is wrong.
class RecordingSink : public ResultSink {
 public:
  void OnStarted(int32_t prompt_tokens, int32_t cached_tokens) override;
  void OnPrefillProgress(int32_t processed_tokens, int32_t total_tokens,
                         std::vector<TokenLogprob> logprobs) override;
  void OnDelta(Delta delta) override;
  void OnFinished(Finish finish) override;
  void OnEnd(const Completion& completion) override;

  // Waits for the end.
  Completion Wait();
  // Waits until `n` tokens of the first candidate have come.
  void WaitForTokens(size_t n);
  std::vector<int32_t> tokens(int32_t candidate = 0);
  Finish finish(int32_t candidate = 0);  // that has been told of
  int finished();                        // candidates
  std::vector<TokenLogprob> prompt_logprobs();
  std::string text(int32_t candidate = 0);
  int32_t cached_tokens();
  std::vector<int32_t> progress();
  std::vector<Delta> deltas();
  int ends();

  // Called on the engine's thread when the request has ended, before Wait returns. Set it before Submit.
  std::function<void()> on_end;

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool started_ = false;
  int32_t cached_ = 0;
  std::vector<int32_t> progress_;
  std::vector<TokenLogprob> prompt_logprobs_;
  std::map<int32_t, Delta> all_;
  std::map<int32_t, Finish> finishes_;
  std::vector<Delta> deltas_;
  Completion completion_;
  int ends_ = 0;
};

struct FakeRequest {
  std::shared_ptr<Request> request;
  std::shared_ptr<RecordingSink> sink;
};
// Greedy, `prompt` tokens long, ends after `max_new_tokens`.
FakeRequest MakeFakeRequest(const std::string& id, int prompt, int max_new_tokens,
                            int32_t first_token = 1);
// What it should get.
std::vector<int32_t> ExpectedTokens(const Request& request);

}  // namespace tauserve

#endif  // TAUSERVE_TESTS_SERVER_ENGINE_FAKE_MODEL_H_
