// The operations between the products, as launches on a stream. Matrices are bfloat16, arithmetic is float32; shapes
// are checked by the caller.
#ifndef TAUSERVE_KERNELS_CUDA_ELEMENTWISE_H_
#define TAUSERVE_KERNELS_CUDA_ELEMENTWISE_H_

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/layer_specs.h"
#include "kernels/tensor.h"

namespace tauserve::cuda {

// False where the build has no code for the current GPU.
bool HasDeviceCode();

// out[r] = table[tokens[r]], and the same for gathered rows. `tokens`, `rows`: device memory.
void GatherRowsOf(const __nv_bfloat16* table, int64_t table_stride, const int32_t* rows, Matrix out,
                  cudaStream_t stream);

// Runs of `n` columns are normed each by themselves; weight: [n].
void RmsNormRows(Matrix in, const float* weight, int n, float epsilon, Matrix out,
                 cudaStream_t stream);

// Cosines, then sines, of each row's angles, [rows][rotary_dim].
void MakeRopeTable(const RopeSpec& spec, const int32_t* positions, int64_t rows, float* table,
                   cudaStream_t stream);
void RopeRows(const float* table, int rotary_dim, int head_dim, Matrix x, cudaStream_t stream);

void GatedActivationRows(Activation act, Matrix gate_up, Matrix out, cudaStream_t stream);

inline constexpr int kMaxScaledHeads = 256;
// out: float32 [rows, num_heads].
void QueryScaleRows(const QueryScaleSpec& spec, const int32_t* positions, Matrix projected,
                    Matrix out, cudaStream_t stream);

// Tightly packed.
void ToFloatRows(Matrix in, float* out, cudaStream_t stream);

}  // namespace tauserve::cuda

#endif  // TAUSERVE_KERNELS_CUDA_ELEMENTWISE_H_
