// Attention as a function of whole tensors, and its gradients: what training needs, where nothing is kept between calls
// but the threshold of each row. The contract is kernels/attention.h's; tensors are float32 in host memory and are read
// and written where they lie. Keys and values go through a paged cache of the object's own, in bfloat16 if so asked.
#ifndef TAUSERVE_KERNELS_CPU_ATTENTION_FUNCTION_H_
#define TAUSERVE_KERNELS_CPU_ATTENTION_FUNCTION_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/attention.h"
#include "kernels/cpu/attention_task.h"
#include "kernels/cpu/kernels.h"
#include "kernels/cpu/kv_cache.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/cpu/worker_memory.h"

namespace tauserve::cpu {

// One sequence's rows of a tensor: head_dim floats of token t and head h at data + t * token_stride + h * head_stride.
struct HeadRows {
  float* data = nullptr;
  int64_t token_stride = 0;
  int64_t head_stride = 0;

  float* at(int64_t token, int64_t head) const {
    return data + token * token_stride + head * head_stride;
  }
};

// The last `queries` of `keys` positions ask; q, k and v are not written to. Tensors that a call does not need stay
// empty.
struct AttentionSequence {
  int queries = 0;  // in [1, keys]
  int keys = 0;
  HeadRows q, out;  // of queries and query heads
  HeadRows k, v;    // of keys and KV heads
  // Of query t and head h at tau + h * tau_head_stride + t: written by Forward unless null, read by Backward.
  float* tau = nullptr;
  int64_t tau_head_stride = 0;
  HeadRows dout, dq;  // gradients of the loss by out (read) and q (written)
  HeadRows dk, dv;    // by k and v, written
};

// InvalidArgument for what kernels/attention.h does not allow, with the number and its limit.
absl::Status CheckSpec(const AttentionSpec& spec);

// Not for use by several threads at once. Results do not depend on the number of threads.
class AttentionFunction {
 public:
  // As BackendOptions says; `kv_type` is float32 or bfloat16.
  static absl::StatusOr<std::unique_ptr<AttentionFunction>> Create(int threads, DataType kv_type);

  // InvalidArgument for shapes and numbers outside what kernels/attention.h allows, ResourceExhausted without memory.
  absl::Status Forward(const AttentionSpec& spec, absl::Span<const AttentionSequence> sequences);
  // Parallel over at least 16 parts of the work where sequences are long enough, each with float32 sums for dk and dv
  // of its own, which are added in a fixed order.
  absl::Status Backward(const AttentionSpec& spec, absl::Span<const AttentionSequence> sequences);

  // Of the last Forward, all sequences together.
  const AttentionStats& stats() const { return stats_; }
  int threads() const { return pool_.threads(); }
  DataType kv_type() const { return kv_type_; }

 private:
  AttentionFunction(const Kernels& kernels, int threads, DataType kv_type)
      : kernels_(kernels), kv_type_(kv_type), pool_(threads) {}

  absl::Status Prepare(const AttentionSpec& spec, absl::Span<const AttentionSequence> sequences);
  void Append(absl::Span<const AttentionSequence> sequences);
  void PlanGradients(absl::Span<const AttentionSequence> sequences);
  void SumGradients(absl::Span<const AttentionSequence> sequences);

  const Kernels& kernels_;
  DataType kv_type_;
  ThreadPool pool_;
  KvCache cache_;
  std::vector<std::unique_ptr<WorkerMemory>> workers_;
  int workers_head_dim_ = 0;

  // The current call.
  std::vector<PageId> pages_;
  std::vector<SequenceSlice> slices_;
  std::vector<AttentionCall> calls_;  // [sequences]
  std::vector<AttentionTask> tasks_;
  std::vector<GradientTask> gradient_tasks_;  // by sequence and KV head, in order of tokens
  std::vector<int> gradient_order_;           // costly ones first
  Mapping partial_;                           // their dk and dv
  AttentionStats stats_;
};

}  // namespace tauserve::cpu

#endif  // TAUSERVE_KERNELS_CPU_ATTENTION_FUNCTION_H_
