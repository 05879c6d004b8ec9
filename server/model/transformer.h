// The transformer of a model folder, written once on Backend's operations: pre-norm layers of
// attention and gated MLP in the order of Hugging Face's Llama.
#ifndef TAUSERVE_SERVER_MODEL_TRANSFORMER_H_
#define TAUSERVE_SERVER_MODEL_TRANSFORMER_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "server/model/config.h"
#include "server/model/model.h"
#include "server/model/weights.h"

namespace tauserve {

struct ModelOptions {
  int32_t max_batched_tokens = 2048;  // rows of a step; activation memory is allocated for so many
  // 0: 2 GiB, or as much as one full context needs if that is more, but at most half of the host's
  // available memory; on a device with memory of its own, nine tenths of what the rest leaves.
  int64_t kv_cache_bytes = 0;
};

class Transformer : public LanguageModel {
 public:
  // Allocates activations. `backend` must outlive this object.
  Transformer(ModelInfo info, ModelConfig config, ModelWeights weights, int32_t max_batched_tokens,
              Backend* backend);
  // Once, before the first step; last of all that is allocated. `bytes` as in ModelOptions.
  absl::Status CreateKvCache(int64_t bytes);
  // A prompt and a few tokens that nobody asked for: a device loads its code when that first runs.
  absl::Status WarmUp();

  const ModelInfo& info() const override { return info_; }
  int32_t num_pages() const override { return num_pages_; }
  absl::StatusOr<StepOutput> Run(const StepInput& input) override;
  absl::StatusOr<absl::Span<const float>> WholeRow(int64_t logit_row) override;
  std::optional<uint64_t> progress() const override { return backend_->progress(); }

 private:
  // Activations of up to max_batched_tokens rows.
  struct Activation {
    std::unique_ptr<DeviceBuffer> buffer;
    Matrix all;
  };
  Activation Allocate(int64_t rows, int64_t cols, size_t element_size);
  Activation Allocate(int64_t rows, int64_t cols);
  // Some rows, or some columns, of a matrix.
  Matrix Rows(const Matrix& m, int64_t begin, int64_t end) const;
  Matrix Cols(const Matrix& m, int64_t begin, int64_t end) const;

  void RunAttention(int layer, Matrix residual, Matrix attended);
  void RunMlp(const LayerWeights& layer, Matrix residual);
  void RunOutput(Matrix hidden, absl::Span<const LogitsQuery> queries);
  void AllocateLogits(int64_t rows);
  Matrix Logits(int64_t begin, int64_t end) const;  // rows of logits_
  // The step's logit row where the host can read it, once it is there.
  float* HostLogits(int64_t row) const;

  ModelInfo info_;
  ModelConfig config_;
  ModelWeights weights_;
  int32_t max_rows_;
  int32_t num_pages_ = 0;
  Backend* backend_;
  RopeSpec rope_;                         // where config_.rope
  std::vector<AttentionSpec> attention_;  // [num_layers]

  Activation residual_;         // [rows, hidden_size]
  Activation normed_;           // [rows, hidden_size]
  Activation attention_input_;  // [rows, query | key | value | beta | gamma]
  Activation query_scale_;      // float32 [rows, num_heads], where queries are scaled
  Activation attended_;         // [rows, num_heads * head_dim]
  // The rows whose logits are asked for, after the last layer's attention.
  Activation gathered_residual_;
  Activation gathered_attended_;
  Activation gate_up_;    // [rows, 2 * intermediate_size]
  Activation activated_;  // [rows, intermediate_size]
  // Room for the logits of a step; grows.
  std::unique_ptr<DeviceBuffer> device_logits_;
  Matrix logits_;  // float32 [logit rows, vocab_size], tightly packed, in device memory
  // Host memory, where the device has its own.
  std::unique_ptr<DeviceBuffer> host_logits_;  // [logit rows, vocab_size]
  std::unique_ptr<DeviceBuffer> top_logits_;   // TopLogits [logit rows]
  std::vector<LogitsQuery> whole_rows_;        // [logit rows]: what is wanted where nothing is said
  int64_t step_logit_rows_ = 0;                // of the last step
};

// Loads the model in `folder`, gives `backend` its weights and its KV cache. `backend` must outlive
// the model. Errors name the file, and the key or tensor with value and limit or both shapes.
absl::StatusOr<std::unique_ptr<LanguageModel>> LoadModel(const std::string& folder,
                                                         Backend* backend,
                                                         const ModelOptions& options);

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_MODEL_TRANSFORMER_H_
