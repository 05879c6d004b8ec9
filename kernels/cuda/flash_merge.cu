// Parts of blocks of the flash kernels become their output: a warp a row.
#include <cfloat>

#include "kernels/cuda/cuda_check.h"
#include "kernels/cuda/flash_mma.cuh"
#include "kernels/cuda/flash_rows.cuh"

namespace tauserve::cuda {
namespace {

constexpr int kRowsAtOnce = 4;

__global__ void __launch_bounds__(32 * kRowsAtOnce)
    FlashMergeKernel(const __grid_constant__ FlashParams p) {
  const int warp_row = blockIdx.x * kRowsAtOnce + threadIdx.x / 32, lane = threadIdx.x % 32;
  const int index = warp_row / p.shape.rows, r = warp_row % p.shape.rows;
  if (index >= p.num_blocks) return;
  const Block block = FlashBlockAt(p, index);
  const Slice slice = p.args.slices[block.slice];
  const int parts = TilesOf(p, slice, block.first_row, 0).parts;
  if (parts == 1) return;
  const FlashRow row = MakeFlashRow(p, slice, block.kv_head, block.first_row + r);
  if (row.head < 0) return;
  const int64_t first = int64_t{index} * p.parts * p.shape.rows + r;
  float2 mine = make_float2(FLT_MAX, 0);  // shift and sum of part `lane`
  if (lane < parts) mine = p.part_sums[first + int64_t{lane} * p.shape.rows];
  float least = mine.x;
  for (int o = 16; o; o >>= 1) least = fminf(least, __shfl_xor_sync(~0u, least, o));
  const float scale = PowerOf2(least - mine.x);
  float sum = mine.y * scale;
  for (int o = 16; o; o >>= 1) sum += __shfl_xor_sync(~0u, sum, o);
  const int64_t batch_row = slice.first_row + row.token;
  __nv_bfloat16* to = p.args.out + batch_row * p.args.out_stride + row.head * p.args.head_dim;
  for (int d = 0; d < p.args.head_dim; d += 64) {
    const bool exists = d + 2 * lane < p.args.head_dim;
    float2 all = make_float2(0, 0);
    for (int part = 0; part < parts; part++) {
      const float weight = __shfl_sync(~0u, scale, part);
      if (!exists) continue;
      const int64_t at = (first + int64_t{part} * p.shape.rows) * p.shape.dim + d + 2 * lane;
      const float2 x = *reinterpret_cast<const float2*>(p.part_out + at);
      all.x = fmaf(weight, x.x, all.x);
      all.y = fmaf(weight, x.y, all.y);
    }
    if (exists) {
      *reinterpret_cast<uint32_t*>(to + d + 2 * lane) = PackPair(all.x / sum, all.y / sum);
    }
  }
}

}  // namespace

void MergeFlashParts(const FlashParams& p) {
  if (p.parts == 1) return;
  const int rows = p.num_blocks * p.shape.rows;
  FlashMergeKernel<<<CeilDiv(rows, kRowsAtOnce), 32 * kRowsAtOnce, 0, p.args.stream>>>(p);
  CUDA_CHECK(cudaGetLastError());
}

}  // namespace tauserve::cuda
