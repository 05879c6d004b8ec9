// A loaded language model as the engine sees it: it runs steps over token rows and paged sequences and gives logits.
// The transformer implements it on a Backend; tests of the engine use a fake.
#ifndef TAUSERVE_SERVER_MODEL_MODEL_H_
#define TAUSERVE_SERVER_MODEL_MODEL_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/attention.h"
#include "kernels/top_logits.h"

namespace tauserve {

struct ModelInfo {
  std::string name;          // last component of the folder's path
  std::string architecture;  // "LlamaForCausalLM"
  int32_t vocab_size = 0;
  int32_t max_context_tokens = 0;  // max_position_embeddings
  int num_layers = 0;
  int num_heads = 0;
  int num_kv_heads = 0;
  int head_dim = 0;
  float alpha_min = 1;
  float alpha_max = 1;
  std::vector<int32_t> eos_token_ids;
  int64_t parameters = 0;
};

// One step: the new tokens of all slices, row by row (slice s owns rows [first_row, first_row + num_tokens)), and the
// rows whose logits are wanted.
struct StepInput {
  absl::Span<const int32_t> tokens;
  absl::Span<const SequenceSlice> slices;
  absl::Span<const int32_t> logit_rows;
  // What is wanted of each logit row; empty: all of them whole.
  absl::Span<const LogitsQuery> queries;
  // Made before anything else of the step.
  absl::Span<const PageCopy> page_copies;
};

// Views stay valid until the next Run.
struct StepOutput {
  // [logit_rows, vocab_size]; where there are top_logits, only the rows wanted whole hold values.
  absl::Span<const float> logits;
  // One for each logit row, those wanted whole undefined; empty where the device gives whole rows whatever is wanted,
  // because they cost nothing.
  absl::Span<const TopLogits> top_logits;
  absl::Span<const AttentionStats> stats;  // one for each slice
};

class LanguageModel {
 public:
  virtual ~LanguageModel() = default;
  virtual const ModelInfo& info() const = 0;
  // Pages of the KV cache; ids are [0, num_pages).
  virtual int32_t num_pages() const = 0;
  // At most the `max_batched_tokens` rows that the model was made for. Called from one thread at a time.
  // An error is the device's: there will be no other step.
  virtual absl::StatusOr<StepOutput> Run(const StepInput& input) = 0;
  // The whole of one of the last Run's logit rows, [vocab_size]; valid until the next Run. Slow: for rows that were not
  // wanted whole, where their top_logits turn out not to suffice. Errors as Run's.
  virtual absl::StatusOr<absl::Span<const float>> WholeRow(int64_t logit_row) = 0;
  // Backend::progress: changes while a Run gets on. Any thread may call it at any time.
  virtual std::optional<uint64_t> progress() const { return std::nullopt; }
};

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_MODEL_MODEL_H_
