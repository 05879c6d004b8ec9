// One block a row. A radix selection over the logits' bits finds the bound exactly, 11, 11 and 10 bits at a time; a
// last pass keeps what is above it, in order of ids. The four passes over the row find it in the L2 cache, where the
// product has just left it. Nothing depends on the order of atomics: they only count.
#include <cmath>

#include "kernels/cuda/cuda_check.h"
#include "kernels/cuda/top_logits.h"

namespace tauserve::cuda {
namespace {

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / 32;
constexpr int kLoads = 4;                   // of four logits each, in flight in a thread
constexpr int kWarpTile = kLoads * 32 * 4;  // consecutive logits of a warp
constexpr int kTile = kWarps * kWarpTile;   // and of the block
constexpr int kBins = 2048;
constexpr unsigned kAllLanes = ~0u;
static_assert(kWarps == 32, "a warp reads what each warp has left");
static_assert(kBins == 2 * kThreads, "two bins a thread");

struct Row {
  const float* logits;
  int n;
  bool aligned;  // to 16 bytes
};

// A thread's logits of the tile that begins at `tile`: x[j][e] is that of token FirstOf(tile) + j * 128 + e. Behind the
// end they are -infinity, which neither a maximum nor a sum nor what is above a bound sees.
__device__ int FirstOf(int tile) {
  return tile + static_cast<int>(threadIdx.x / 32 * kWarpTile + threadIdx.x % 32 * 4);
}
__device__ void LoadTile(const Row& row, int tile, float (&x)[kLoads][4]) {
#pragma unroll
  for (int j = 0; j < kLoads; j++) {
    const int at = FirstOf(tile) + j * 128;
    if (row.aligned && at + 4 <= row.n) {
      const float4 four = __ldg(reinterpret_cast<const float4*>(row.logits + at));
      x[j][0] = four.x;
      x[j][1] = four.y;
      x[j][2] = four.z;
      x[j][3] = four.w;
    } else {
#pragma unroll
      for (int e = 0; e < 4; e++) {
        x[j][e] = at + e < row.n ? __ldg(row.logits + at + e) : -INFINITY;
      }
    }
  }
}

// Calls visit(token of four[0], four) for each four logits of a tile, or of all tiles.
template <typename Visit>
__device__ void ForEachFourOf(const Row& row, int tile, const Visit& visit) {
  float x[kLoads][4];
  LoadTile(row, tile, x);
#pragma unroll
  for (int j = 0; j < kLoads; j++) visit(FirstOf(tile) + j * 128, x[j]);
}
template <typename Visit>
__device__ void ForEachFour(const Row& row, const Visit& visit) {
  for (int tile = 0; tile < row.n; tile += kTile) ForEachFourOf(row, tile, visit);
}

// The same in all threads, and whenever the threads' values are the same.
template <typename T, typename Operation>
__device__ T ReduceBlock(T x, const Operation& operation) {
  __shared__ T of_warp[kWarps];
  const int lane = threadIdx.x % 32;
  for (int offset = 16; offset > 0; offset /= 2) {
    x = operation(x, __shfl_xor_sync(kAllLanes, x, offset));
  }
  __syncthreads();  // what an earlier call left has been read
  if (lane == 0) of_warp[threadIdx.x / 32] = x;
  __syncthreads();
  x = of_warp[lane];
  for (int offset = 16; offset > 0; offset /= 2) {
    x = operation(x, __shfl_xor_sync(kAllLanes, x, offset));
  }
  return x;
}

__device__ double SumOfBlock(double x) {
  return ReduceBlock(x, [](double a, double b) { return a + b; });
}

// Unsigned numbers in the order of the floats.
__device__ unsigned KeyOf(float x) {
  const unsigned bits = __float_as_uint(x);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ float LogitOf(unsigned key) {
  return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

struct Place {
  int bin;
  int rank;  // among what the bin counts
};

// Where the rank-th largest (from 1) of all that is counted is; there must be at least so many. Waits until all threads
// have counted, and returns to all of them together; the bins are zero then, where asked for.
__device__ Place Find(int* bins, int rank, bool clear) {
  __shared__ int of_warp[kWarps];
  __shared__ Place found;
  __syncthreads();
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  // The first thread has the highest bins.
  const int high = kBins - 1 - 2 * static_cast<int>(threadIdx.x);
  const int in_high = bins[high], in_low = bins[high - 1];
  if (clear) bins[high] = bins[high - 1] = 0;
  int until = in_high + in_low;  // counted in this thread's bins and higher ones, by and by
  for (int offset = 1; offset < 32; offset *= 2) {
    const int higher = __shfl_up_sync(kAllLanes, until, offset);
    if (lane >= offset) until += higher;
  }
  if (lane == 31) of_warp[warp] = until;
  __syncthreads();
  until += __reduce_add_sync(kAllLanes, lane < warp ? of_warp[lane] : 0);
  const int above_low = until - in_low, above_high = above_low - in_high;
  if (above_high < rank && rank <= above_low) found = {high, rank - above_high};
  if (above_low < rank && rank <= until) found = {high - 1, rank - above_low};
  __syncthreads();
  return found;
}

struct Sums {
  float max;
  float temperature;  // 0: not wanted
  bool unit;          // wanted
  double sum = 0, unit_sum = 0;

  __device__ void Add(const float (&four)[4]) {
    if (temperature > 0) {
      float of_four = 0;
#pragma unroll
      for (int e = 0; e < 4; e++) of_four += expf(__fdiv_rn(four[e] - max, temperature));
      sum += of_four;
    }
    if (unit) {
      float of_four = 0;
#pragma unroll
      for (int e = 0; e < 4; e++) of_four += expf(four[e] - max);
      unit_sum += of_four;
    }
  }
};

// Writes tokens and logits above `bound` in order of ids; returns how many.
__device__ int KeepAbove(const Row& row, float bound, TopLogits* out) {
  __shared__ int of_warp[2][kWarps];  // by turns, so that one barrier a tile is enough
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int kept = 0;  // in the tiles before
  for (int tile = 0, turn = 0; tile < row.n; tile += kTile, turn ^= 1) {
    float x[kLoads][4];
    LoadTile(row, tile, x);
    int count[kLoads], of_thread = 0;
#pragma unroll
    for (int j = 0; j < kLoads; j++) {
      count[j] = 0;
#pragma unroll
      for (int e = 0; e < 4; e++) count[j] += x[j][e] > bound;
      of_thread += count[j];
    }
    const int warp_total = __reduce_add_sync(kAllLanes, of_thread);
    if (lane == 0) of_warp[turn][warp] = warp_total;
    __syncthreads();
    int at = kept + __reduce_add_sync(kAllLanes, lane < warp ? of_warp[turn][lane] : 0);
    kept += __reduce_add_sync(kAllLanes, of_warp[turn][lane]);
    if (warp_total == 0) continue;
#pragma unroll
    for (int j = 0; j < kLoads; j++) {
      int until = count[j];  // kept of this lane and those before
      for (int offset = 1; offset < 32; offset *= 2) {
        const int before = __shfl_up_sync(kAllLanes, until, offset);
        if (lane >= offset) until += before;
      }
      int to = at + until - count[j];
      at += __shfl_sync(kAllLanes, until, 31);
#pragma unroll
      for (int e = 0; e < 4; e++) {
        if (!(x[j][e] > bound)) continue;
        out->tokens[to] = FirstOf(tile) + j * 128 + e;
        out->logits[to++] = x[j][e];
      }
    }
  }
  return kept;
}

__global__ void __launch_bounds__(kThreads)
    TopLogitsKernel(const float* logits, int64_t stride, int n, const TopLogitsQuery* queries,
                    TopLogits* results) {
  __shared__ int bins[kBins];
  const TopLogitsQuery query = queries[blockIdx.x];
  if (query.flags & TopLogitsQuery::kWhole) return;
  TopLogits* const out = results + blockIdx.x;
  Row row{logits + blockIdx.x * stride, n, false};
  row.aligned = reinterpret_cast<uintptr_t>(row.logits) % sizeof(float4) == 0;
  const bool leader = threadIdx.x == 0;
  const bool select = n > kMaxTopLogits;

  for (int i = threadIdx.x; i < kBins; i += kThreads) bins[i] = 0;
  __syncthreads();
  float max = -INFINITY;
  int unusable = n;
  int floor = select ? 0 : kBins;  // lower bins need not be counted
  for (int tile = 0; tile < n; tile += kTile) {
    ForEachFourOf(row, tile, [&](int token, const float(&four)[4]) {
#pragma unroll
      for (int e = 0; e < 4; e++) {
        max = fmaxf(max, four[e]);
        if (!(four[e] < INFINITY)) unusable = min(unusable, token + e);
        const int bin = static_cast<int>(KeyOf(four[e]) >> 21);
        if (bin >= floor) atomicAdd(&bins[bin], 1);
      }
    });
    // The first tile alone has enough logits that are not below its own bound, which few of the others reach.
    if (tile == 0 && n > kTile) floor = Find(bins, kMaxTopLogits + 1, /*clear=*/false).bin;
  }
  max = ReduceBlock(max, [](float a, float b) { return fmaxf(a, b); });
  unusable = ReduceBlock(unusable, [](int a, int b) { return min(a, b); });
  if (leader) {
    out->first_unusable = unusable < n ? unusable : -1;
    if (unusable < n) out->unusable_logit = row.logits[unusable];
    out->max = max;
    out->count = 0;
  }
  if (unusable < n || max == -INFINITY) return;

  // All that is counted has the bits of `key` above those that are still to be found.
  unsigned key = 0;
  int rank = kMaxTopLogits + 1;
  Sums sums{max, query.temperature, (query.flags & TopLogitsQuery::kUnitSum) != 0};
  if (select) {
    const Place place = Find(bins, rank, /*clear=*/true);
    key = static_cast<unsigned>(place.bin) << 21;
    rank = place.rank;
  }
  ForEachFour(row, [&](int, const float(&four)[4]) {
    sums.Add(four);
    if (!select) return;
#pragma unroll
    for (int e = 0; e < 4; e++) {
      const unsigned k = KeyOf(four[e]);
      if (k >> 21 == key >> 21) atomicAdd(&bins[k >> 10 & 0x7ff], 1);
    }
  });
  float bound = -INFINITY;
  if (select) {
    Place place = Find(bins, rank, /*clear=*/true);
    key |= static_cast<unsigned>(place.bin) << 10;
    rank = place.rank;
    ForEachFour(row, [&](int, const float(&four)[4]) {
#pragma unroll
      for (int e = 0; e < 4; e++) {
        const unsigned k = KeyOf(four[e]);
        if (k >> 10 == key >> 10) atomicAdd(&bins[k & 0x3ff], 1);
      }
    });
    place = Find(bins, rank, /*clear=*/true);
    bound = LogitOf(key | static_cast<unsigned>(place.bin));
  }
  const double sum = SumOfBlock(sums.sum), unit_sum = SumOfBlock(sums.unit_sum);
  const int count = KeepAbove(row, bound, out);
  if (leader) {
    out->bound = bound;
    out->sum = sum;
    out->unit_sum = unit_sum;
    out->count = count;
  }
}

}  // namespace

void SelectTopLogitsOf(Matrix logits, const TopLogitsQuery* queries, TopLogits* out,
                       cudaStream_t stream) {
  if (logits.rows == 0) return;
  TopLogitsKernel<<<logits.rows, kThreads, 0, stream>>>(static_cast<const float*>(logits.data),
                                                        logits.stride, logits.cols, queries, out);
  CUDA_CHECK(cudaGetLastError());
}

}  // namespace tauserve::cuda
