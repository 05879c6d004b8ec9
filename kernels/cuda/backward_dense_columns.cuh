// What rows that the forward pass did not keep add to dK and dV, a thread block for a tile of keys.
#ifndef TAUSERVE_KERNELS_CUDA_BACKWARD_DENSE_COLUMNS_CUH_
#define TAUSERVE_KERNELS_CUDA_BACKWARD_DENSE_COLUMNS_CUH_

#include "kernels/cuda/backward_params.h"
#include "kernels/cuda/gradient_scale.cuh"
#include "kernels/cuda/scored_rows.cuh"

namespace tauserve::cuda {

template <int kDim>
struct DenseColumnsShape {
  static constexpr int kOutputs = kDim <= 128 ? kDim : kDim / 2;  // columns of dK and dV of a block
  static constexpr int kStages = kDim <= 128 ? 2 : 1;
  static constexpr int kListed = 1024;  // row tiles looked up together
  static constexpr int kRowBytes = kTrainingTile * 8;
  static constexpr int kSharedBytes =
      (2 + 2 * kStages) * kDenseTileBytes<kDim> + kStages * kRowBytes + kListed * 4 + 64 + 128;
};

template <typename Element, int kDim, entmax::Form kForm>
struct DenseColumns {
  using Tile = DenseTile<Element, kDim>;
  using Shape = DenseColumnsShape<kDim>;
  using Scores = float[1][kTrainingTile / 8][4];

  const BackwardParams<Element>& p;
  const TrainedSequence sequence;
  const int kv_head, first_key, first_output;
  const uint32_t shared;  // keys, values, then stages of queries and output gradients
  float2* rows;           // [stages][kTrainingTile], threshold and mean
  int32_t* listed;  // row tiles with weight on these keys: token tile * group + head of the group
  int32_t* warp_counts;
  const int row_tiles_before;  // of the sequences before
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  int context;
  float scale = kMostGradientScale;  // float16: of dS in dk
  float dk[Shape::kOutputs / 8][4] = {}, dv[Shape::kOutputs / 8][4] = {};

  __device__ __forceinline__ uint32_t Queries(int stage) const {
    return shared + (2 + 2 * stage) * Tile::kBytes;
  }

  // A listed row tile among those of all sequences and heads.
  __device__ __forceinline__ int64_t TileOf(int at) const {
    return static_cast<int64_t>(row_tiles_before + at / p.group) * p.args.num_heads +
           kv_head * p.group + at % p.group;
  }

  __device__ void Run() {
    context = sequence.num_keys - sequence.num_tokens;
    const int64_t stride = static_cast<int64_t>(p.args.num_kv_heads) * kDim;
    const int64_t at =
        (static_cast<int64_t>(sequence.first_key + first_key) * p.args.num_kv_heads + kv_head) *
        kDim;
    Tile::Load(shared, p.args.k + at, stride, sequence.num_keys - first_key);
    Tile::Load(shared + Tile::kBytes, p.args.v + at, stride, sequence.num_keys - first_key);
    CommitCopies();
    // Tokens that see some of these keys.
    const int key_tile = first_key / kTrainingTile;
    int first_tile = 0, last_tile = CeilDiv(sequence.num_tokens, kTrainingTile);
    if (p.args.causal) {
      first_tile = max(0, first_key - context) / kTrainingTile;
      if (p.args.sliding_window > 0) {
        const int end = first_key + kTrainingTile - 1 + p.args.sliding_window - context;
        last_tile = max(first_tile, min(last_tile, CeilDiv(max(end, 0), kTrainingTile)));
      }
    }
    const int candidates = (last_tile - first_tile) * p.group;
    bool any = false;
    for (int first = 0; first < candidates; first += Shape::kListed) {
      const int count = List(first_tile, first, min(candidates, first + Shape::kListed), key_tile);
      any |= count > 0;
      Add(count);
    }
    if (any) Write();
  }

  // Those of candidates [begin, end) with weight on the keys, in order.
  __device__ __forceinline__ int List(int first_tile, int begin, int end, int key_tile) {
    int count = 0;
    for (int i0 = begin; i0 < end; i0 += kDenseThreads) {
      const int i = i0 + threadIdx.x;
      const int at = first_tile * p.group + i;
      bool live = false;
      if (i < end) {
        const int64_t tile = TileOf(at);
        live = p.dense_row_tiles[tile] != 0 &&
               (key_tile >= kMaxLiveWords * 32 ||
                (p.live[tile * p.live_words + key_tile / 32] >> key_tile % 32 & 1) != 0);
      }
      const uint32_t mask = __ballot_sync(~0u, live);
      if (lane == 0) warp_counts[warp] = __popc(mask);
      __syncthreads();
      int before = count;
      for (int w = 0; w < kDenseThreads / 32; w++) {
        if (w < warp) before += warp_counts[w];
        count += warp_counts[w];
      }
      if (live) listed[before + __popc(mask & ((1u << lane) - 1))] = at;
      __syncthreads();
    }
    return count;
  }

  __device__ __forceinline__ void Load(int i, int count, int stage) {
    if (i < count) {
      const int token = listed[i] / p.group * kTrainingTile;
      const int head = kv_head * p.group + listed[i] % p.group;
      const int64_t row =
          static_cast<int64_t>(sequence.first_token + token) * p.args.num_heads + head;
      const int64_t stride = static_cast<int64_t>(p.args.num_heads) * kDim;
      const int there = sequence.num_tokens - token;
      Tile::Load(Queries(stage), p.args.q + row * kDim, stride, there);
      Tile::Load(Queries(stage) + Tile::kBytes, p.args.d_out + row * kDim, stride, there);
      if (threadIdx.x < kTrainingTile) {
        float2 x = make_float2(INFINITY, 0);
        const int64_t r = row + static_cast<int64_t>(threadIdx.x) * p.args.num_heads;
        if (threadIdx.x < there && p.args.kept.first[r] < 0) {
          x = make_float2(p.args.kept.threshold[r], p.mean[r]);
        }
        rows[stage * kTrainingTile + threadIdx.x] = x;
      }
    }
    CommitCopies();
  }

  __device__ __forceinline__ void Add(int count) {
    Load(0, count, 0);
    int stage = 0;
    for (int i = 0; i < count; i++) {
      if constexpr (Shape::kStages == 2) {
        Load(i + 1, count, stage ^ 1);
        WaitForCopies<1>();
      } else {
        WaitForCopies<0>();
      }
      __syncthreads();
      AddTile(listed[i], stage);
      __syncthreads();
      if constexpr (Shape::kStages == 2) {
        stage ^= 1;
      } else {
        Load(i + 1, count, 0);
      }
    }
    WaitForCopies<0>();
    __syncthreads();
  }

  // A warp's 16 keys by 64 rows.
  __device__ __forceinline__ void AddTile(int at, int stage) {
    const int token = at / p.group * kTrainingTile;
    const DenseHead head = MakeDenseHead(p.args, kv_head * p.group + at % p.group);
    const uint32_t queries = Queries(stage);
    const float2* const row = rows + stage * kTrainingTile + 2 * (lane % 4);
    Scores x;
#pragma unroll
    for (int n = 0; n < kTrainingTile / 8; n++) {
#pragma unroll
      for (int i = 0; i < 4; i++) x[0][n][i] = -row[8 * n + i % 2].x;
    }
    Tile::MultiplyRows(shared, warp * 16, queries, lane, x);
    if (head.slope != 0) AddBias(token, head.slope, x);
    if (!SeesAll(token)) Mask(token, x);
    bool any = false;
#pragma unroll
    for (int n = 0; n < kTrainingTile / 8; n++) {
#pragma unroll
      for (int i = 0; i < 4; i++) any |= x[0][n][i] > 0;
    }
    if (!__any_sync(~0u, any)) return;
    if constexpr (kIsFloat16<Element>) LowerScale(at);
    Scores d_weight = {};
    Tile::MultiplyRows(shared + Tile::kBytes, warp * 16, queries + Tile::kBytes, lane, d_weight);
#pragma unroll
    for (int n = 0; n < kTrainingTile / 8; n++) {
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const float z = fmaxf(x[0][n][i], 0.0f) * head.inverse_width;
        const float g = WeightGradient<kForm>(z, head.exponent);
        d_weight[0][n][i] = g * (d_weight[0][n][i] - row[8 * n + i % 2].y);
        if constexpr (kIsFloat16<Element>) d_weight[0][n][i] *= scale;
        x[0][n][i] = WeightOf<kForm>(z, g) * kWeightScale<Element>;
      }
    }
    Tile::template MultiplyWeights<Shape::kOutputs>(x[0], queries + Tile::kBytes, first_output,
                                                    lane, dv);
    Tile::template MultiplyWeights<Shape::kOutputs>(d_weight[0], queries, first_output, lane, dk);
  }
  // To the one of a row tile that may have larger dS than those before.
  __device__ __forceinline__ void LowerScale(int at) {
    const float tile_scale = GradientScale(p.gradient_bound[TileOf(at)]);
    if (tile_scale >= scale) return;
    const float by = tile_scale * InverseOfPowerOf2(scale);
#pragma unroll
    for (int n = 0; n < Shape::kOutputs / 8; n++) {
#pragma unroll
      for (int i = 0; i < 4; i++) dk[n][i] *= by;
    }
    scale = tile_scale;
  }
  __device__ __forceinline__ KeyRange Visible(int token) const {
    return VisibleKeys(context + token, sequence.num_keys, p.args.causal, p.args.sliding_window);
  }
  // Whether all rows of a tile see all keys of this one.
  __device__ __forceinline__ bool SeesAll(int token) const {
    const KeyRange low = Visible(token), high = Visible(token + kTrainingTile - 1);
    return first_key >= high.begin && first_key + kTrainingTile <= low.end;
  }
  __device__ __forceinline__ int KeyOf(int h) const {
    return first_key + warp * 16 + lane / 4 + 8 * h;
  }
  __device__ __forceinline__ void AddBias(int token, float slope, Scores& x) const {
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const float away = static_cast<float>(KeyOf(h) - context - token - 2 * (lane % 4));
#pragma unroll
      for (int n = 0; n < kTrainingTile / 8; n++) {
#pragma unroll
        for (int e = 0; e < 2; e++) {
          x[0][n][2 * h + e] = fmaf(slope, away - (8 * n + e), x[0][n][2 * h + e]);
        }
      }
    }
  }
  __device__ __forceinline__ void Mask(int token, Scores& x) const {
#pragma unroll
    for (int n = 0; n < kTrainingTile / 8; n++) {
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const KeyRange range = Visible(token + 8 * n + 2 * (lane % 4) + i % 2);
        const int key = KeyOf(i / 2);
        if (key < range.begin || key >= range.end) x[0][n][i] = -1;
      }
    }
  }

  // On top of what lists gave.
  __device__ __forceinline__ void Write() {
    constexpr float kValueScale = 1 / kWeightScale<Element>;
    float key_scale = p.args.scale;
    if constexpr (kIsFloat16<Element>) key_scale *= InverseOfPowerOf2(scale);
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const int key = KeyOf(h);
      if (key >= sequence.num_keys) continue;
      const int64_t at =
          (static_cast<int64_t>(sequence.first_key + key) * p.args.num_kv_heads + kv_head) * kDim +
          first_output + 2 * (lane % 4);
#pragma unroll
      for (int n = 0; n < Shape::kOutputs / 8; n++) {
        AddPair(p.args.dv + at + 8 * n, dv[n][2 * h] * kValueScale, dv[n][2 * h + 1] * kValueScale);
        AddPair(p.args.dk + at + 8 * n, dk[n][2 * h] * key_scale, dk[n][2 * h + 1] * key_scale);
      }
    }
  }
  static __device__ __forceinline__ void AddPair(Element* to, float x, float y) {
    uint32_t* const pair = reinterpret_cast<uint32_t*>(to);
    const uint32_t before = *pair;
    *pair = PackPair<Element>(x + LowOf<Element>(before), y + HighOf<Element>(before));
  }
};

template <typename Element, int kDim, entmax::Form kForm>
__global__ void __launch_bounds__(kDenseThreads)
    BackwardDenseColumns(const __grid_constant__ BackwardParams<Element> p) {
  using Shape = DenseColumnsShape<kDim>;
  if (*p.any_dense == 0) return;
  extern __shared__ __align__(128) char shared[];
  const AlignedShared aligned = AlignShared(shared);
  char* const rest = aligned.begin + (2 + 2 * Shape::kStages) * kDenseTileBytes<kDim>;
  // Tiles of one KV head are neighbours; the first keys are seen by most rows.
  const int kv_head = blockIdx.x / p.tiles.num_key_tiles;
  const int2 at = p.tiles.key_tiles[blockIdx.x % p.tiles.num_key_tiles];
  int32_t* const listed = reinterpret_cast<int32_t*>(rest + Shape::kStages * Shape::kRowBytes);
  DenseColumns<Element, kDim, kForm> columns{p,
                                             p.args.sequences[at.x],
                                             kv_head,
                                             at.y,
                                             static_cast<int>(blockIdx.y) * Shape::kOutputs,
                                             aligned.address,
                                             reinterpret_cast<float2*>(rest),
                                             listed,
                                             listed + Shape::kListed,
                                             p.tiles.first_row_tile[at.x]};
  columns.Run();
}

}  // namespace tauserve::cuda

#endif  // TAUSERVE_KERNELS_CUDA_BACKWARD_DENSE_COLUMNS_CUH_
