// The backward pass over lists: a warp a row, then a warp a key.
#ifndef TAUSERVE_KERNELS_CUDA_BACKWARD_LISTS_CUH_
#define TAUSERVE_KERNELS_CUDA_BACKWARD_LISTS_CUH_

#include "kernels/cuda/backward_params.h"

namespace tauserve::cuda {

inline constexpr int kListThreads = 128;
inline constexpr int kLongRow = 2048;  // entries that a warp takes alone
inline constexpr int kLongRowThreads = 256;
inline constexpr int kListBlocks =
    8;  // a multiprocessor: 64 registers; more rows at once hide more than longer loads

// A row and its entries; none where they are not kept.
struct KeptRow {
  int head, kv_head, row, count;
  int64_t first;
};
// Rows head by head, so that what neighbours in time gather is in the L2.
template <typename Element>
__device__ __forceinline__ KeptRow KeptRowAt(const BackwardParams<Element>& p, int index) {
  KeptRow at;
  at.head = index / p.args.num_tokens;
  at.kv_head = at.head / p.group;
  at.row = (index - at.head * p.args.num_tokens) * p.args.num_heads + at.head;
  at.first = p.args.kept.first[at.row];
  at.count = at.first < 0 ? 0 : p.args.kept.count[at.row];
  return at;
}

// Every kept entry's place in its column.
template <typename Element>
__global__ void __launch_bounds__(kListThreads)
    CountColumns(const __grid_constant__ BackwardParams<Element> p) {
  const int index = blockIdx.x * (kListThreads / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (index >= p.num_rows) return;
  const KeptRow at = KeptRowAt(p, index);
  int32_t* counts = p.column_count + static_cast<int64_t>(at.kv_head) * p.args.num_keys;
  for (int e = lane; e < at.count; e += 32) {
    p.place[at.first + e] = atomicAdd(&counts[p.args.kept.entries[at.first + e].Key()], 1);
  }
}

// What a row's entries add up to: the lane's 8 elements of sum g dP K and of sum g K, then sum g dP and sum g.
struct RowSums {
  float weighted[8] = {}, plain[8] = {}, sums[2] = {};
};

// Entries begin, begin + step, ... of a row, kEntries at once; keeps their dP.
template <typename Element, int kDim, entmax::Form kForm>
__device__ __forceinline__ RowSums AddRow(const BackwardParams<Element>& p, const KeptRow& at,
                                          int begin, int step) {
  using Lanes = GatherLanes<kDim>;
  constexpr int kUnroll = 2;
  const int lane = threadIdx.x % 32, part = lane % Lanes::kLanes, offset = part * 8;
  const bool used = part < Lanes::kUsed;
  const KeptEntry* entries = p.args.kept.entries + at.first;
  const float exponent = 1 / (p.args.heads[at.head].alpha - 1);
  const uint4 zero = make_uint4(0, 0, 0, 0);
  float d_out[8];
  Unpack<Element>(used ? __ldg(reinterpret_cast<const uint4*>(
                             p.args.d_out + static_cast<int64_t>(at.row) * kDim + offset))
                       : zero,
                  d_out);
  const int64_t stride = static_cast<int64_t>(p.args.num_kv_heads) * kDim;
  const Element* k = p.args.k + at.kv_head * kDim + offset;
  const Element* v = p.args.v + at.kv_head * kDim + offset;
  RowSums sum;
  for (int e0 = begin; e0 < at.count; e0 += step * kUnroll) {
    float z[kUnroll];
    uint4 key[kUnroll], value[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; u++) {
      const int e = e0 + u * step + lane / Lanes::kLanes;
      z[u] = 0;
      key[u] = value[u] = zero;
      if (e >= at.count) continue;
      const KeptEntry entry = entries[e];
      z[u] = entry.Z();
      if (!used) continue;
      key[u] = __ldg(reinterpret_cast<const uint4*>(k + entry.Key() * stride));
      value[u] = __ldg(reinterpret_cast<const uint4*>(v + entry.Key() * stride));
    }
#pragma unroll
    for (int u = 0; u < kUnroll; u++) {
      const int e = e0 + u * step + lane / Lanes::kLanes;
      float x[8];
      Unpack<Element>(value[u], x);
      float d_weight = 0;
#pragma unroll
      for (int i = 0; i < 8; i++) d_weight = fmaf(d_out[i], x[i], d_weight);
#pragma unroll
      for (int o = 1; o < Lanes::kLanes; o *= 2) d_weight += __shfl_xor_sync(~0u, d_weight, o);
      if (part == 0 && e < at.count) p.d_weight[at.first + e] = d_weight;
      const float g = WeightGradient<kForm>(z[u], exponent), gw = g * d_weight;
      sum.sums[0] += gw;
      sum.sums[1] += g;
      Unpack<Element>(key[u], x);
#pragma unroll
      for (int i = 0; i < 8; i++) {
        sum.weighted[i] = fmaf(gw, x[i], sum.weighted[i]);
        sum.plain[i] = fmaf(g, x[i], sum.plain[i]);
      }
    }
  }
  SumOverEntries<kDim>(sum.sums);
  SumOverEntries<kDim>(sum.weighted);
  SumOverEntries<kDim>(sum.plain);
  return sum;
}

// The warp's lanes with elements write dQ.
template <typename Element, int kDim>
__device__ __forceinline__ void WriteRow(const BackwardParams<Element>& p, int row, float mean,
                                         const RowSums& sum) {
  const int lane = threadIdx.x % 32;
  if (lane >= GatherLanes<kDim>::kUsed) return;
  float dq[8];
#pragma unroll
  for (int i = 0; i < 8; i++) dq[i] = fmaf(-mean, sum.plain[i], sum.weighted[i]);
  *reinterpret_cast<uint4*>(p.args.dq + static_cast<int64_t>(row) * kDim + lane * 8) =
      Packed<Element>(dq, p.args.scale);
}

// Entries begin, begin + step, ... into their columns.
template <typename Element, entmax::Form kForm>
__device__ __forceinline__ void FillColumns(const BackwardParams<Element>& p, const KeptRow& at,
                                            int begin, int step, float mean) {
  const float exponent = 1 / (p.args.heads[at.head].alpha - 1);
  const int64_t* columns = p.column_first + static_cast<int64_t>(at.kv_head) * p.args.num_keys;
  for (int e = begin; e < at.count; e += step) {
    const KeptEntry entry = p.args.kept.entries[at.first + e];
    const float z = entry.Z(), g = WeightGradient<kForm>(z, exponent);
    const float gradient = g * (p.d_weight[at.first + e] - mean);
    p.unsorted_columns[columns[entry.Key()] + p.place[at.first + e]] =
        ColumnEntry(at.row, WeightOf<kForm>(z, g), gradient);
  }
}

// dQ of a row, and its entries into their columns; long rows are left to BackwardLongRows.
template <typename Element, int kDim, entmax::Form kForm>
__global__ void __launch_bounds__(kListThreads, kListBlocks)
    BackwardRows(const __grid_constant__ BackwardParams<Element> p) {
  const int index = blockIdx.x * (kListThreads / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (index >= p.num_rows) return;
  const KeptRow at = KeptRowAt(p, index);
  if (at.first < 0) return;
  if (at.count > kLongRow) {
    if (lane == 0) p.long_rows[atomicAdd(p.num_long_rows, 1)] = index;
    return;
  }
  const RowSums sum = AddRow<Element, kDim, kForm>(p, at, 0, GatherLanes<kDim>::kEntries);
  const float mean = sum.sums[0] / sum.sums[1];
  WriteRow<Element, kDim>(p, at.row, mean, sum);
  __syncwarp();
  FillColumns<Element, kForm>(p, at, lane, 32, mean);
}

// A thread block a row.
template <typename Element, int kDim, entmax::Form kForm>
__global__ void __launch_bounds__(kLongRowThreads)
    BackwardLongRows(const __grid_constant__ BackwardParams<Element> p) {
  using Lanes = GatherLanes<kDim>;
  constexpr int kWarps = kLongRowThreads / 32;
  __shared__ RowSums partial[kWarps][Lanes::kLanes];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int rows = *p.num_long_rows;
  for (int i = blockIdx.x; i < rows; i += gridDim.x) {
    const KeptRow at = KeptRowAt(p, p.long_rows[i]);
    const RowSums mine =
        AddRow<Element, kDim, kForm>(p, at, warp * Lanes::kEntries, kWarps * Lanes::kEntries);
    if (lane < Lanes::kLanes) partial[warp][lane] = mine;
    __syncthreads();
    RowSums sum;
    for (int w = 0; w < kWarps; w++) {
      const RowSums& other = partial[w][lane % Lanes::kLanes];
#pragma unroll
      for (int c = 0; c < 8; c++) {
        sum.weighted[c] += other.weighted[c];
        sum.plain[c] += other.plain[c];
      }
      sum.sums[0] += other.sums[0];
      sum.sums[1] += other.sums[1];
    }
    const float mean = sum.sums[0] / sum.sums[1];
    if (warp == 0) WriteRow<Element, kDim>(p, at.row, mean, sum);
    FillColumns<Element, kForm>(p, at, threadIdx.x, kLongRowThreads, mean);
    __syncthreads();
  }
}

// The lane's 8 elements of dV and of dK / scale over some of a column's entries.
template <typename Element, int kDim>
__device__ __forceinline__ void AddColumn(const BackwardParams<Element>& p, const uint64_t* entries,
                                          int count, int lane, float (&sum)[16]) {
  using Lanes = GatherLanes<kDim>;
  constexpr int kUnroll = 4;
  const int part = lane % Lanes::kLanes;
  const bool used = part < Lanes::kUsed;
  const Element* q = p.args.q + part * 8;
  const Element* d_out = p.args.d_out + part * 8;
  for (int e0 = 0; e0 < count; e0 += Lanes::kEntries * kUnroll) {
    uint32_t weights[kUnroll];
    uint4 query[kUnroll], gradient[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; u++) {
      const int e = e0 + u * Lanes::kEntries + lane / Lanes::kLanes;
      weights[u] = 0;
      query[u] = gradient[u] = make_uint4(0, 0, 0, 0);
      if (e >= count || !used) continue;
      const uint64_t entry = entries[e];
      weights[u] = static_cast<uint32_t>(entry);
      const int64_t at = static_cast<int64_t>(entry >> 32) * kDim;
      query[u] = __ldg(reinterpret_cast<const uint4*>(q + at));
      gradient[u] = __ldg(reinterpret_cast<const uint4*>(d_out + at));
    }
#pragma unroll
    for (int u = 0; u < kUnroll; u++) {
      const float weight = __uint_as_float(weights[u] << 16);
      const float d_score = __uint_as_float(weights[u] & 0xffff0000u);
      float x[8];
      Unpack<Element>(gradient[u], x);
#pragma unroll
      for (int i = 0; i < 8; i++) sum[i] = fmaf(weight, x[i], sum[i]);
      Unpack<Element>(query[u], x);
#pragma unroll
      for (int i = 0; i < 8; i++) sum[8 + i] = fmaf(d_score, x[i], sum[8 + i]);
    }
  }
  SumOverEntries<kDim>(sum);
}

template <typename Element, int kDim>
__device__ __forceinline__ void WriteColumn(const BackwardParams<Element>& p, int column, int part,
                                            const float (&sum)[16]) {
  const int kv_head = column / p.args.num_keys, key = column - kv_head * p.args.num_keys;
  const int64_t at = (static_cast<int64_t>(key) * p.args.num_kv_heads + kv_head) * kDim + part * 8;
  float dv[8], dk[8];
#pragma unroll
  for (int i = 0; i < 8; i++) {
    dv[i] = sum[i];
    dk[i] = sum[8 + i];
  }
  *reinterpret_cast<uint4*>(p.args.dv + at) = Packed<Element>(dv, 1);
  *reinterpret_cast<uint4*>(p.args.dk + at) = Packed<Element>(dk, p.args.scale);
}

// dK and dV of a key; keys with many rows, such as attention sinks, are left to BackwardLongColumns in pieces.
template <typename Element, int kDim>
__global__ void __launch_bounds__(kListThreads)
    BackwardColumns(const __grid_constant__ BackwardParams<Element> p) {
  using Lanes = GatherLanes<kDim>;
  const int column = blockIdx.x * (kListThreads / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (column >= p.num_columns) return;
  const int count = p.column_count[column];
  if (count > kLongColumn) {
    const int pieces = CeilDiv(count, kLongColumn);
    int first = 0;
    if (lane == 0) first = atomicAdd(p.num_pieces, pieces);
    first = __shfl_sync(~0u, first, 0);
    for (int i = lane; i < pieces; i += 32) p.pieces[first + i] = {column, first, pieces, 0};
    return;
  }
  float sum[16] = {};
  AddColumn<Element, kDim>(p, p.columns + p.column_first[column], count, lane, sum);
  if (lane < Lanes::kUsed) WriteColumn<Element, kDim>(p, column, lane, sum);
}

// A warp a piece; the last of a column's adds all up, in their order.
template <typename Element, int kDim>
__global__ void __launch_bounds__(kListThreads)
    BackwardLongColumns(const __grid_constant__ BackwardParams<Element> p) {
  using Lanes = GatherLanes<kDim>;
  const int lane = threadIdx.x % 32, warps = gridDim.x * (kListThreads / 32);
  const int num_pieces = *p.num_pieces;
  for (int i = blockIdx.x * (kListThreads / 32) + threadIdx.x / 32; i < num_pieces; i += warps) {
    const ColumnPiece piece = p.pieces[i];
    const int begin = (i - piece.first) * kLongColumn;
    float sum[16] = {};
    AddColumn<Element, kDim>(p, p.columns + p.column_first[piece.column] + begin,
                             min(kLongColumn, p.column_count[piece.column] - begin), lane, sum);
    float* const partial = p.partial + static_cast<int64_t>(i) * 2 * kDim;
    if (lane < Lanes::kUsed) {
#pragma unroll
      for (int c = 0; c < 16; c++) partial[c * Lanes::kUsed + lane] = sum[c];
    }
    __threadfence();
    __syncwarp();
    int done = 0;
    if (lane == 0) done = atomicAdd(&p.pieces[piece.first].done, 1);
    done = __shfl_sync(~0u, done, 0);
    if (done != piece.pieces - 1) continue;
    __threadfence();
    if (lane < Lanes::kUsed) {
#pragma unroll
      for (int c = 0; c < 16; c++) sum[c] = 0;
      for (int j = 0; j < piece.pieces; j++) {
        const float* const other =
            p.partial + static_cast<int64_t>(piece.first + j) * 2 * kDim + lane;
#pragma unroll
        for (int c = 0; c < 16; c++) sum[c] += __ldcg(other + c * Lanes::kUsed);
      }
      WriteColumn<Element, kDim>(p, piece.column, lane, sum);
    }
  }
}

}  // namespace tauserve::cuda

#endif  // TAUSERVE_KERNELS_CUDA_BACKWARD_LISTS_CUH_
