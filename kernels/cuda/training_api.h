// Training's passes with C's calling convention, for Python: the library is loaded without a module for an interpreter's or
// PyTorch's version.
#ifndef TAUSERVE_KERNELS_CUDA_TRAINING_API_H_
#define TAUSERVE_KERNELS_CUDA_TRAINING_API_H_

#include <stdint.h>

#define TAUSERVE_EXPORT __attribute__((visibility("default")))

extern "C" {

// Of a batch's tensors.
enum TauserveElement { TAUSERVE_BFLOAT16 = 0, TAUSERVE_FLOAT16 = 1 };

// As TrainingBatch (training_batch.h). Pointers named host_* are to host memory, all others here and below to the
// current device's.
struct TauserveBatch {
  const int32_t* sequences;  // [num_sequences][4]: first token, tokens, first key, keys
  const int32_t* host_sequences;
  const float* heads;  // [num_heads][2]: alpha, ALiBi slope
  const float* host_heads;
  int32_t num_sequences;
  int32_t num_tokens;
  int32_t num_keys;
  int32_t num_heads;
  int32_t num_kv_heads;
  int32_t head_dim;
  float scale;
  int32_t sliding_window;
  int32_t causal;
  int32_t element;  // TauserveElement
};

// As KeptSupport (kept_support.h); threshold may be null, then nothing is kept.
struct TauserveKept {
  float* threshold;
  int32_t* count;
  int64_t* first;
  uint32_t* entries;
  int64_t capacity;
  uint64_t* used;
};

// Why a batch can't be run on the current device, for as long as the calling thread makes no other call here; null where it
// can.
TAUSERVE_EXPORT const char* tauserve_refusal(const TauserveBatch* batch);

TAUSERVE_EXPORT int64_t tauserve_forward_workspace_bytes(const TauserveBatch* batch);
TAUSERVE_EXPORT int64_t tauserve_backward_workspace_bytes(const TauserveBatch* batch,
                                                          int64_t capacity, int32_t deterministic);

// Tensors of batch->element: q, out, d_out, dq [tokens][heads][head_dim], the others [keys][kv_heads][head_dim]. What failed,
// as tauserve_refusal says why; null where all was launched. For batches that aren't refused.
TAUSERVE_EXPORT const char* tauserve_forward(const TauserveBatch* batch, const void* q,
                                             const void* k, const void* v, void* out,
                                             const TauserveKept* kept, void* workspace,
                                             int64_t workspace_bytes, void* stream);
TAUSERVE_EXPORT const char* tauserve_backward(const TauserveBatch* batch, const void* q,
                                              const void* k, const void* v, const void* d_out,
                                              void* dq, void* dk, void* dv,
                                              const TauserveKept* kept, int32_t deterministic,
                                              void* workspace, int64_t workspace_bytes,
                                              void* stream);

}  // extern "C"

#endif  // TAUSERVE_KERNELS_CUDA_TRAINING_API_H_
