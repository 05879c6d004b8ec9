// The kernel of skinny_linear.h. Measured on an H100, the products of an 8B model's step of 1 row: units of 128 bytes of each
// row of the weights take 3% longer than these of 256; 512 in half as many stages and bulk copies of rows are no better;
// asking for more than the stages hold, into the L2 cache, before WaitForEarlierKernels takes 4 to 8% longer. Without the
// overlap of launches they take 8% longer.
#ifndef TAUSERVE_KERNELS_CUDA_SKINNY_LINEAR_KERNEL_CUH_
#define TAUSERVE_KERNELS_CUDA_SKINNY_LINEAR_KERNEL_CUH_

#include <cuda_bf16.h>

#include <cstdint>

#include "kernels/cuda/activation.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/overlapped_launch.h"

namespace tauserve::cuda::skinny {

using bf16 = __nv_bfloat16;

inline constexpr int kWarps = 8;  // that multiply; one more copies inputs
inline constexpr int kThreads = 32 * (kWarps + 1);
inline constexpr int kTileRows = 16 * kWarps;  // of weights
inline constexpr int kSteps = 4;               // of a unit, each of 32 inputs
inline constexpr int kUnitInputs = 32 * kSteps;
inline constexpr int kInputStages = 4;
inline constexpr int kWarpStageBytes = kSteps * 2 * 512;

struct Params {
  const bf16* weight;
  int64_t in;
  int features;  // of the output
  int tile_features;  // of a tile: its rows, or half of them where they are gates and what those multiply
  int high_row;  // rows between the two that a thread has: 8, or half of the weight's rows
  const bf16* x;
  int64_t x_stride;
  int rows;
  void* out;
  int64_t out_stride;
  const float* bias;  // or nullptr
  bool gated, add, float_out;
  Activation activation;
  int tile_units;
  int block_units, long_blocks;  // units of a block; how many blocks have one more
  float4* partials;  // [blocks][2][kWarps][kTiles][32]: of a block's first tile, and of its last
  int*
      arrivals;  // [blocks][kWarps]: of the tile that starts in that block, back at 0 after each launch
};

__device__ __forceinline__ uint32_t SharedAddress(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}
__device__ __forceinline__ void CopyAsync(uint32_t to, const void* from, int bytes) {
  asm volatile("cp.async.cg.shared.global.L2::256B [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
               "r"(bytes)
               : "memory");
}
__device__ __forceinline__ uint4 Load(uint32_t from) {
  uint4 v;
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "r"(from)
               : "memory");
  return v;
}
__device__ __forceinline__ void InitBarrier(uint32_t barrier, int arrivals) {
  asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
__device__ __forceinline__ void Arrive(uint32_t barrier) {
  asm volatile("{\n.reg .b64 state;\nmbarrier.arrive.shared.b64 state, [%0];\n}" ::"r"(barrier)
               : "memory");
}
// When this thread's copies so far have landed.
__device__ __forceinline__ void ArriveAfterCopies(uint32_t barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(barrier) : "memory");
}

// The first unit of a block, and the block that has a unit: the first `long_blocks` have one more than the others.
__device__ __forceinline__ int FirstUnit(const Params& p, int block) {
  return block * p.block_units + min(block, p.long_blocks);
}
__device__ __forceinline__ int BlockOf(const Params& p, int unit) {
  const int in_long_blocks = p.long_blocks * (p.block_units + 1);
  if (unit < in_long_blocks) return unit / (p.block_units + 1);
  return p.long_blocks + (unit - in_long_blocks) / p.block_units;
}

// Within a unit the dot product may take its inputs in any order that weights and activations share: a thread's 16
// bytes of a row, 8 neighbouring inputs, serve as the four inputs that the tensor cores' layout gives it in each of two
// products. So every thread copies just the weights that it multiplies, in copies of its own, and no barrier is needed.
template <int kStages>
class WeightStream {
 public:
  __device__ WeightStream(const Params& p, uint32_t memory, int unit, int count)
      : p_(p), memory_(memory), tile_(unit / p.tile_units), left_(count) {
    k_ = unit % p.tile_units * kUnitInputs;
    FindRows();
    for (int s = 0; s < kStages - 1; s++) Issue();
  }

  // The address of this thread's weights of the next unit, which are there.
  __device__ uint32_t Next() {
    asm volatile("cp.async.wait_group %0;" ::"n"(kStages - 2) : "memory");
    const uint32_t at = memory_ + read_ * kWarpStageBytes;
    read_ = read_ + 1 == kStages ? 0 : read_ + 1;
    Issue();  // into the place of the unit before
    return at;
  }

 private:
  __device__ void FindRows() {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int feature = tile_ * p_.tile_features + warp * (p_.tile_features / kWarps) + lane / 4;
    const bool low = feature < p_.features;
    const bool high = p_.gated ? low : feature + 8 < p_.features;
    low_bytes_ = low ? 16 : 0;
    high_bytes_ = high ? 16 : 0;
    low_ = p_.weight + (low ? feature * p_.in : 0) + lane % 4 * 8;
    high_ = p_.weight + (high ? (int64_t{feature} + p_.high_row) * p_.in : 0) + lane % 4 * 8;
  }

  __device__ void Issue() {
    if (left_ > 0) {
      left_--;
      const int lane = threadIdx.x % 32;
      const uint32_t to = memory_ + write_ * kWarpStageBytes;
      const int inside = static_cast<int>(p_.in) - k_ - lane % 4 * 8;
#pragma unroll
      for (int j = 0; j < kSteps; j++) {
        const bool is_in = inside > 32 * j;
        const int at = is_in ? k_ + 32 * j : 0;
        CopyAsync(to + j * 1024, low_ + at, is_in ? low_bytes_ : 0);
        CopyAsync(to + j * 1024 + 512, high_ + at, is_in ? high_bytes_ : 0);
      }
      k_ += kUnitInputs;
      if (k_ >= p_.in) {
        k_ = 0;
        tile_++;
        FindRows();
      }
    }
    write_ = write_ + 1 == kStages ? 0 : write_ + 1;
    asm volatile("cp.async.commit_group;" ::: "memory");
  }

  const Params& p_;
  const uint32_t memory_;  // this thread's 16 bytes of the first of 512 that each step has twice
  int tile_, k_ = 0, left_;
  int write_ = 0, read_ = 0;
  const bf16* low_ = nullptr;
  const bf16* high_ = nullptr;
  int low_bytes_ = 0, high_bytes_ = 0;
};

// Copies the inputs of a block's units, [kSteps][kTiles] times the 16 bytes of each lane.
template <int kTiles>
__device__ void CopyInputs(const Params& p, uint32_t memory, uint32_t full, uint32_t empty,
                           int unit, int count) {
  const int lane = threadIdx.x % 32;
  const bf16* from[kTiles];
  int bytes[kTiles];
#pragma unroll
  for (int n = 0; n < kTiles; n++) {
    const int row = n * 8 + lane / 4;
    bytes[n] = row < p.rows ? 16 : 0;
    from[n] = p.x + (row < p.rows ? row * p.x_stride : 0) + lane % 4 * 8;
  }
  int k = unit % p.tile_units * kUnitInputs, stage = 0, parity = 1;  // the first round needn't wait
  for (int i = 0; i < count; i++) {
    WaitBarrier(empty + stage * 8, parity);
    const uint32_t to = memory + stage * (kSteps * kTiles * 512);
    const int inside = static_cast<int>(p.in) - k - lane % 4 * 8;
#pragma unroll
    for (int j = 0; j < kSteps; j++) {
      const bool is_in = inside > 32 * j;
      const int at = is_in ? k + 32 * j : 0;
#pragma unroll
      for (int n = 0; n < kTiles; n++) {
        CopyAsync(to + (j * kTiles + n) * 512, from[n] + at, is_in ? bytes[n] : 0);
      }
    }
    ArriveAfterCopies(full + stage * 8);
    k += kUnitInputs;
    if (k >= p.in) k = 0;
    if (++stage == kInputStages) {
      stage = 0;
      parity ^= 1;
    }
  }
  asm volatile("cp.async.wait_all;" ::: "memory");
}

// Where the sums of a thread go.
struct Place {
  __device__ Place(const Params& p, int tile) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    feature = tile * p.tile_features + warp * (p.tile_features / kWarps) + lane / 4;
    has_low = feature < p.features;
    has_high = p.gated ? has_low : feature + 8 < p.features;
  }
  __device__ static int Row(int n, int i) { return n * 8 + threadIdx.x % 4 * 2 + i % 2; }
  __device__ bool Has(const Params& p, int n, int i) const {
    return Row(n, i) < p.rows && (i < 2 ? has_low : has_high && !p.gated);
  }
  __device__ int64_t Offset(const Params& p, int n, int i) const {
    return Row(n, i) * p.out_stride + feature + (i < 2 ? 0 : 8);
  }
  int feature;  // the other one of a thread is 8 behind
  bool has_low, has_high;
};

// What is there for the sums to be added to. All loads are on their way together.
template <int kTiles>
__device__ void LoadOld(const Params& p, const Place& place, float (&old)[kTiles][4]) {
#pragma unroll
  for (int n = 0; n < kTiles; n++) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      old[n][i] = 0;
      if (!p.add || !place.Has(p, n, i)) continue;
      const int64_t at = place.Offset(p, n, i);
      old[n][i] = p.float_out ? static_cast<const float*>(p.out)[at]
                              : __bfloat162float(static_cast<const bf16*>(p.out)[at]);
    }
  }
}

// Adds up what the blocks that share a tile have. False in all but the last warp to arrive there.
template <int kTiles>
__device__ bool AddPartials(const Params& p, int tile, float (&c)[kTiles][4]) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int tile_unit = tile * p.tile_units;
  auto slot = [&](int block) {
    const int which = FirstUnit(p, block) >= tile_unit ? 0 : 1;
    return p.partials + ((block * 2 + which) * kWarps + warp) * (kTiles * 32) + lane;
  };
  float4* mine = slot(blockIdx.x);
#pragma unroll
  for (int n = 0; n < kTiles; n++) {
    __stcg(mine + n * 32, make_float4(c[n][0], c[n][1], c[n][2], c[n][3]));
  }
  __threadfence();
  __syncwarp();
  const int first = BlockOf(p, tile_unit);
  const int last = BlockOf(p, tile_unit + p.tile_units - 1);
  int* arrivals = p.arrivals + first * kWarps + warp;
  int before = 0;
  if (lane == 0) before = atomicAdd(arrivals, 1);
  before = __shfl_sync(~0u, before, 0);
  if (before != last - first) return false;
  __threadfence();
  if (lane == 0) *arrivals = 0;
#pragma unroll
  for (int n = 0; n < kTiles; n++) c[n][0] = c[n][1] = c[n][2] = c[n][3] = 0;
  constexpr int kTogether = 4;  // blocks whose sums are on their way at once
  for (int block = first; block <= last; block += kTogether) {
    const float4* theirs[kTogether];
#pragma unroll
    for (int i = 0; i < kTogether; i++) theirs[i] = slot(min(block + i, last));
#pragma unroll
    for (int n = 0; n < kTiles; n++) {
      float4 v[kTogether];
#pragma unroll
      for (int i = 0; i < kTogether; i++) v[i] = __ldcg(theirs[i] + n * 32);
#pragma unroll
      for (int i = 0; i < kTogether; i++) {
        if (block + i > last) break;
        c[n][0] += v[i].x;
        c[n][1] += v[i].y;
        c[n][2] += v[i].z;
        c[n][3] += v[i].w;
      }
    }
  }
  return true;
}

template <int kTiles>
__device__ void StoreTile(const Params& p, const Place& place, const float (&c)[kTiles][4],
                          const float (&old)[kTiles][4]) {
  float low_bias = 0, high_bias = 0;
  if (p.bias != nullptr) {
    if (place.has_low) low_bias = p.bias[place.feature];
    if (place.has_high) high_bias = p.bias[place.feature + p.high_row];
  }
#pragma unroll
  for (int n = 0; n < kTiles; n++) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      if (!place.Has(p, n, i)) continue;
      float value = c[n][i] + (i < 2 ? low_bias : high_bias);
      if (p.gated) value = Activated(p.activation, value) * (c[n][2 + i % 2] + high_bias);
      value += old[n][i];
      const int64_t at = place.Offset(p, n, i);
      if (p.float_out) {
        static_cast<float*>(p.out)[at] = value;
      } else {
        static_cast<bf16*>(p.out)[at] = __float2bfloat16(value);
      }
    }
  }
}

template <int kTiles, int kStages>
constexpr int SharedBytes() {
  return kWarps * kStages * kWarpStageBytes + kInputStages * (kSteps * kTiles * 512 + 16);
}

// kTiles: of 8 rows of the batch. kStages: units of weights on their way or being multiplied.
template <int kTiles, int kStages>
__global__ void __launch_bounds__(kThreads, 1)
    SkinnyLinearKernel(const __grid_constant__ Params p) {
  extern __shared__ __align__(128) char memory[];
  AllowLaterKernels();
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const uint32_t weights = SharedAddress(memory) + warp * (kStages * kWarpStageBytes) + lane * 16;
  const uint32_t inputs = SharedAddress(memory) + kWarps * kStages * kWarpStageBytes + lane * 16;
  const uint32_t full = inputs - lane * 16 + kInputStages * (kSteps * kTiles * 512);
  const uint32_t empty = full + kInputStages * 8;
  if (threadIdx.x == 0) {
    for (int s = 0; s < kInputStages; s++) {
      InitBarrier(full + s * 8, 32);
      InitBarrier(empty + s * 8, kWarps);
    }
  }
  __syncthreads();
  int unit = FirstUnit(p, blockIdx.x);
  const int end = FirstUnit(p, blockIdx.x + 1);
  if (warp == kWarps) {
    WaitForEarlierKernels();
    CopyInputs<kTiles>(p, inputs, full, empty, unit, end - unit);
    return;
  }
  WeightStream<kStages> stream(p, weights, unit, end - unit);
  WaitForEarlierKernels();

  float c[kTiles][4] = {};
  int stage = 0, parity = 0;
  int tile = unit / p.tile_units, tile_end = (tile + 1) * p.tile_units;
  bool whole = unit % p.tile_units == 0;
  for (; unit < end; unit++) {
    const uint32_t a = stream.Next();
    WaitBarrier(full + stage * 8, parity);
    const uint32_t b = inputs + stage * (kSteps * kTiles * 512);
#pragma unroll
    for (int j = 0; j < kSteps; j++) {
      const uint4 low = Load(a + j * 1024), high = Load(a + j * 1024 + 512);
#pragma unroll
      for (int n = 0; n < kTiles; n++) {
        const uint4 x = Load(b + (j * kTiles + n) * 512);
        MmaBf16(c[n], low.x, high.x, low.y, high.y, x.x, x.y);
        MmaBf16(c[n], low.z, high.z, low.w, high.w, x.z, x.w);
      }
    }
    __syncwarp();
    if (lane == 0) Arrive(empty + stage * 8);
    if (++stage == kInputStages) {
      stage = 0;
      parity ^= 1;
    }
    if (unit + 1 < tile_end && unit + 1 < end) continue;
    const Place place(p, tile);
    float old[kTiles][4];
    LoadOld<kTiles>(p, place, old);
    if ((whole && unit + 1 == tile_end) || AddPartials<kTiles>(p, tile, c)) {
      StoreTile<kTiles>(p, place, c, old);
    }
#pragma unroll
    for (int n = 0; n < kTiles; n++) c[n][0] = c[n][1] = c[n][2] = c[n][3] = 0;
    tile++;
    tile_end += p.tile_units;
    whole = true;
  }
}

}  // namespace tauserve::cuda::skinny

#endif  // TAUSERVE_KERNELS_CUDA_SKINNY_LINEAR_KERNEL_CUH_
