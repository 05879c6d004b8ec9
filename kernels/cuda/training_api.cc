#include "kernels/cuda/training_api.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <string>

#include "kernels/cuda/backward.h"
#include "kernels/cuda/cuda_check.h"
#include "kernels/cuda/training_forward.h"

namespace tauserve::cuda {
namespace {

static_assert(sizeof(TrainedSequence) == 4 * sizeof(int32_t) && sizeof(Head) == 2 * sizeof(float));

void SetBatch(const TauserveBatch& from, TrainingBatch& to) {
  to.sequences = reinterpret_cast<const TrainedSequence*>(from.sequences);
  to.host_sequences = reinterpret_cast<const TrainedSequence*>(from.host_sequences);
  to.num_sequences = from.num_sequences;
  to.num_tokens = from.num_tokens;
  to.num_keys = from.num_keys;
  to.heads = reinterpret_cast<const Head*>(from.heads);
  to.host_heads = reinterpret_cast<const Head*>(from.host_heads);
  to.num_heads = from.num_heads;
  to.num_kv_heads = from.num_kv_heads;
  to.head_dim = from.head_dim;
  to.scale = from.scale;
  to.sliding_window = from.sliding_window;
  to.causal = from.causal != 0;
}

KeptSupport MakeKept(const TauserveKept& kept) {
  KeptSupport to;
  to.threshold = kept.threshold;
  to.count = kept.count;
  to.first = kept.first;
  to.entries = reinterpret_cast<KeptEntry*>(kept.entries);
  to.capacity = kept.capacity;
  to.used = reinterpret_cast<unsigned long long*>(kept.used);
  return to;
}

// Calls run.operator()<element type>() of a batch that isn't refused.
template <typename Run>
auto WithElement(const TauserveBatch& batch, const Run& run) {
  if (batch.element == TAUSERVE_FLOAT16) return run.template operator()<__half>();
  return run.template operator()<__nv_bfloat16>();
}

const char* Say(std::string text) {
  static thread_local std::string said;
  said = std::move(text);
  return said.c_str();
}

// The calling thread's first error since the last call; CUDA itself keeps those that end a context.
const char* TakeError() {
  CudaError& error = FirstCudaError();
  if (error.code == cudaSuccess) return nullptr;
  const char* text = Say(std::string(error.call) + ": " + cudaGetErrorString(error.code));
  error = {};
  return text;
}

}  // namespace
}  // namespace tauserve::cuda

extern "C" {

using namespace tauserve::cuda;

const char* tauserve_refusal(const TauserveBatch* batch) {
  if (!TrainingSupported()) {
    if (const char* error = TakeError()) return error;
    return "entmax attention on CUDA runs on GPUs of compute capability 9.0";
  }
  if (batch->element != TAUSERVE_BFLOAT16 && batch->element != TAUSERVE_FLOAT16) {
    return Say("element is " + std::to_string(batch->element) +
               ", neither TAUSERVE_BFLOAT16 nor TAUSERVE_FLOAT16");
  }
  const int dim = batch->head_dim;
  if (dim != 64 && dim != 96 && dim != 128 && dim != 256) {
    return Say("head_dim is " + std::to_string(dim) + ", on CUDA it must be 64, 96, 128 or 256");
  }
  if (batch->num_keys > kMostKeptKeys) {
    return Say("the batch has " + std::to_string(batch->num_keys) + " keys, more than " +
               std::to_string(kMostKeptKeys));
  }
  return nullptr;
}

int64_t tauserve_forward_workspace_bytes(const TauserveBatch* batch) {
  return WithElement(*batch, [&]<typename Element>() {
    TrainingForwardArgs<Element> args;
    SetBatch(*batch, args);
    return static_cast<int64_t>(TrainingForwardWorkspaceBytes(args));
  });
}

int64_t tauserve_backward_workspace_bytes(const TauserveBatch* batch, int64_t capacity,
                                          int32_t deterministic) {
  return WithElement(*batch, [&]<typename Element>() {
    BackwardArgs<Element> args;
    SetBatch(*batch, args);
    args.kept.capacity = capacity;
    args.deterministic = deterministic != 0;
    return static_cast<int64_t>(BackwardWorkspaceBytes(args));
  });
}

const char* tauserve_forward(const TauserveBatch* batch, const void* q, const void* k,
                             const void* v, void* out, const TauserveKept* kept, void* workspace,
                             int64_t workspace_bytes, void* stream) {
  WithElement(*batch, [&]<typename Element>() {
    TrainingForwardArgs<Element> args;
    SetBatch(*batch, args);
    args.q = static_cast<const Element*>(q);
    args.k = static_cast<const Element*>(k);
    args.v = static_cast<const Element*>(v);
    args.out = static_cast<Element*>(out);
    args.kept = MakeKept(*kept);
    args.workspace = workspace;
    args.workspace_bytes = static_cast<size_t>(workspace_bytes);
    args.stream = static_cast<cudaStream_t>(stream);
    TrainingForward(args);
  });
  return TakeError();
}

const char* tauserve_backward(const TauserveBatch* batch, const void* q, const void* k,
                              const void* v, const void* d_out, void* dq, void* dk, void* dv,
                              const TauserveKept* kept, int32_t deterministic, void* workspace,
                              int64_t workspace_bytes, void* stream) {
  WithElement(*batch, [&]<typename Element>() {
    BackwardArgs<Element> args;
    SetBatch(*batch, args);
    args.q = static_cast<const Element*>(q);
    args.k = static_cast<const Element*>(k);
    args.v = static_cast<const Element*>(v);
    args.d_out = static_cast<const Element*>(d_out);
    args.dq = static_cast<Element*>(dq);
    args.dk = static_cast<Element*>(dk);
    args.dv = static_cast<Element*>(dv);
    args.kept = MakeKept(*kept);
    args.deterministic = deterministic != 0;
    args.workspace = workspace;
    args.workspace_bytes = static_cast<size_t>(workspace_bytes);
    args.stream = static_cast<cudaStream_t>(stream);
    AttentionBackward(args);
  });
  return TakeError();
}

}  // extern "C"
