#include "kernels/check.h"
#include "kernels/cuda/allow_shared_bytes.h"
#include "kernels/cuda/backward_dense.h"
#include "kernels/cuda/backward_dense_columns.cuh"
#include "kernels/cuda/backward_dense_rows.cuh"
#include "kernels/cuda/cuda_check.h"

namespace tauserve::cuda {
namespace {

template <typename Element, int kDim, entmax::Form kForm>
void Launch(const BackwardParams<Element>& p) {
  using Rows = ScoredRowsShape<kDim, 1, true>;
  using Columns = DenseColumnsShape<kDim>;
  const int tiles = p.tiles.num_row_tiles * p.args.num_heads;
  MarkDenseRows<<<CeilDiv(tiles, kDenseThreads / 32), kDenseThreads, 0, p.args.stream>>>(p);
  CUDA_CHECK(cudaGetLastError());
  AllowSharedBytes<BackwardDenseRows<Element, kDim, kForm>>(Rows::kSharedBytes);
  BackwardDenseRows<Element, kDim, kForm>
      <<<tiles, kDenseThreads, Rows::kSharedBytes, p.args.stream>>>(p);
  CUDA_CHECK(cudaGetLastError());
  AllowSharedBytes<BackwardDenseColumns<Element, kDim, kForm>>(Columns::kSharedBytes);
  const dim3 grid(p.tiles.num_key_tiles * p.args.num_kv_heads, kDim / Columns::kOutputs);
  BackwardDenseColumns<Element, kDim, kForm>
      <<<grid, kDenseThreads, Columns::kSharedBytes, p.args.stream>>>(p);
  CUDA_CHECK(cudaGetLastError());
}

}  // namespace

template <typename Element>
void BackwardDense(const BackwardParams<Element>& p) {
  WithBackwardForm(p.args,
                   [&]<int kDim, entmax::Form kForm>() { Launch<Element, kDim, kForm>(p); });
}

template void BackwardDense(const BackwardParams<__nv_bfloat16>&);
template void BackwardDense(const BackwardParams<__half>&);

}  // namespace tauserve::cuda
