#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>

#include "tests/gpu/decode_case.h"
#include "tests/gpu/normal.h"

namespace tauserve::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void FillNormal(__nv_bfloat16* x, size_t n, float scale, uint64_t seed) {
  for (size_t i = blockIdx.x * size_t{kThreads} + threadIdx.x; i < n;
       i += size_t{gridDim.x} * kThreads) {
    x[i] = __float2bfloat16(Normal(i, seed) * scale);
  }
}

__device__ float KeyValue(Keys kind, int token, int tokens, int kv_head, int d, float scale,
                          uint64_t seed) {
  const auto at = [&](int64_t j) { return Normal((j * 1024 + kv_head) * 512 + d, seed) * scale; };
  switch (kind) {
    case Keys::kEqual:
      return at(0);
    case Keys::kTies:
      return at(token % 7);
    case Keys::kDenormal:
      return at(token) * 1e-39f;
    case Keys::kOneHuge:
      return at(token) * (token == tokens / 3 ? 60 : 1);
    case Keys::kPeaked:
      return at(token) * (token % 64 == 5 ? 100 : 1);
    default:
      return at(token);
  }
}

// One warp a token and KV head: keys, values, shadow, and the page's norm.
__global__ void FillCache(AttentionArgs a, int slice, int tokens, Keys kind, float scale,
                          uint64_t seed, float* norms) {
  const int lane = threadIdx.x & 31, d_count = a.head_dim;
  const int32_t* table = a.page_table + a.slices[slice].first_page;
  for (int64_t i = blockIdx.x * int64_t{kThreads / 32} + threadIdx.x / 32;
       i < int64_t{tokens} * a.num_kv_heads; i += int64_t{gridDim.x} * (kThreads / 32)) {
    const int token = i / a.num_kv_heads, kv = i % a.num_kv_heads;
    const int64_t page = int64_t{table[token / kPageTokens]} * a.num_kv_heads + kv;
    const int64_t slot = page * kPageTokens + token % kPageTokens;
    __nv_bfloat16* k = const_cast<__nv_bfloat16*>(a.keys) + slot * d_count;
    __nv_bfloat16* v = const_cast<__nv_bfloat16*>(a.values) + slot * d_count;
    float most = 0, norm = 0;
    for (int d = lane; d < d_count; d += 32) {
      k[d] = __float2bfloat16(KeyValue(kind, token, tokens, kv, d, scale, seed));
      v[d] = __float2bfloat16(Normal(slot * d_count + d, seed + 77));
      const float x = __bfloat162float(k[d]);
      most = fmaxf(most, fabsf(x));
      norm += x * x;
    }
    for (int o = 16; o; o >>= 1) {
      most = fmaxf(most, __shfl_xor_sync(~0u, most, o));
      norm += __shfl_xor_sync(~0u, norm, o);
    }
    const float step = __half2float(__float2half_ru(fmaxf(most, 1e-6f) / 127));
    float rest = 0;
    for (int d = lane; d < d_count; d += 32) {
      const float x = __bfloat162float(k[d]);
      const int code = max(-127, min(127, __float2int_rn(x / step)));
      const_cast<int8_t*>(a.shadow)[slot * d_count + d] = static_cast<int8_t>(code);
      rest += (x - code * step) * (x - code * step);
    }
    for (int o = 16; o; o >>= 1) rest += __shfl_xor_sync(~0u, rest, o);
    if (lane == 0) {
      const_cast<ShadowScale*>(a.shadow_scale)[slot] = {__float2half_ru(step),
                                                        __float2half_ru(sqrtf(rest) * 1.0001f)};
      atomicMax(reinterpret_cast<int*>(norms + page), __float_as_int(sqrtf(norm) * 1.0001f));
    }
  }
}

// Scores of a row and head in double; -infinity where not visible.
__global__ void ReferenceScores(AttentionArgs a, int slice, int token, int head, double* scores) {
  const Slice s = a.slices[slice];
  const int row = s.first_row + token, position = s.context_tokens + token;
  const int kv = head / (a.num_heads / a.num_kv_heads);
  const int n = s.context_tokens + s.num_tokens;
  const __nv_bfloat16* q = a.q + row * a.q_stride + head * a.head_dim;
  const double scale = static_cast<double>(a.scale) *
                       (a.query_scale ? a.query_scale[row * a.query_scale_stride + head] : 1.0f);
  const Head h = a.heads[head];
  const double unit = h.alpha == 1 ? 1.0 : static_cast<double>(h.alpha) - 1;
  for (int j = blockIdx.x * kThreads + threadIdx.x; j < n; j += gridDim.x * kThreads) {
    const int64_t page =
        int64_t{a.page_table[s.first_page + j / kPageTokens]} * a.num_kv_heads + kv;
    const __nv_bfloat16* k = a.keys + (page * kPageTokens + j % kPageTokens) * a.head_dim;
    double dot = 0;
    for (int d = 0; d < a.head_dim; d++) {
      dot += static_cast<double>(__bfloat162float(q[d])) * __bfloat162float(k[d]);
    }
    double score = scale * dot;
    bool visible = true;
    if (a.causal) {
      score += static_cast<double>(h.alibi_slope) * (j - position);
      visible = j <= position && (a.sliding_window == 0 || j > position - a.sliding_window);
    }
    scores[j] = visible ? unit * score : -INFINITY;
  }
}

__device__ double BlockReduce(double x, bool max, double* memory) {
  __syncthreads();
  memory[threadIdx.x] = x;
  __syncthreads();
  for (int o = kThreads / 2; o; o >>= 1) {
    if (threadIdx.x < o) {
      const double y = memory[threadIdx.x + o];
      memory[threadIdx.x] = max ? fmax(memory[threadIdx.x], y) : memory[threadIdx.x] + y;
    }
    __syncthreads();
  }
  return memory[0];
}

__device__ double ReferenceWeight(double z, double alpha) {
  if (!(z > 0)) return 0;
  if (alpha == 1.5) return z * z;
  if (alpha == 2) return z;
  return pow(z, 1 / (alpha - 1));
}

// One block a head of one row: tau by bisection, weights in place, then the output.
__global__ void ReferenceRow(AttentionArgs a, int slice, int token, int first_head, double* scores,
                             size_t stride, double* out, int* support) {
  __shared__ double memory[kThreads];
  const Slice s = a.slices[slice];
  const int row = s.first_row + token, head = first_head + blockIdx.x;
  const int kv = head / (a.num_heads / a.num_kv_heads);
  const int n = s.context_tokens + s.num_tokens;
  double* w = scores + blockIdx.x * stride;
  const double alpha = a.heads[head].alpha;
  double max = -INFINITY;
  for (int j = threadIdx.x; j < n; j += kThreads) max = fmax(max, w[j]);
  max = BlockReduce(max, true, memory);
  double lo = 0, hi = 1, sum = 0;  // the gap max - tau
  if (alpha > 1) {
    for (int i = 0; i < 50; i++) {
      const double gap = (lo + hi) / 2;
      double f = 0;
      for (int j = threadIdx.x; j < n; j += kThreads) f += ReferenceWeight(gap + w[j] - max, alpha);
      f = BlockReduce(f, false, memory);
      (f > 1 ? hi : lo) = gap;
    }
  }
  double count = 0;
  for (int j = threadIdx.x; j < n; j += kThreads) {
    w[j] = alpha > 1 ? ReferenceWeight(hi + w[j] - max, alpha) : exp(w[j] - max);
    sum += w[j];
    count += w[j] > 0;
  }
  sum = BlockReduce(sum, false, memory);
  count = BlockReduce(count, false, memory);
  if (threadIdx.x == 0) support[row * a.num_heads + head] = static_cast<int>(count);
  // Threads share the keys: each d is summed by kThreads / head_dim threads.
  const int parts = kThreads / a.head_dim;
  const int d = threadIdx.x % a.head_dim, part = threadIdx.x / a.head_dim;
  double value = 0;
  if (part < parts) {
    for (int j = part; j < n; j += parts) {
      if (w[j] == 0) continue;
      const int64_t page =
          int64_t{a.page_table[s.first_page + j / kPageTokens]} * a.num_kv_heads + kv;
      value += w[j] *
               __bfloat162float(a.values[(page * kPageTokens + j % kPageTokens) * a.head_dim + d]);
    }
  }
  __syncthreads();
  memory[threadIdx.x] = value;
  __syncthreads();
  if (threadIdx.x < a.head_dim) {
    for (int i = 1; i < parts; i++) value += memory[threadIdx.x + i * a.head_dim];
    out[(static_cast<int64_t>(row) * a.num_heads + head) * a.head_dim + d] = value / sum;
  }
}

}  // namespace

Case::Case(const CaseSpec& s) : spec(s) {
  const int sequences = static_cast<int>(s.context.size());
  int rows = 0, pages = 0;
  for (int i = 0; i < sequences; i++) {
    Slice slice;
    slice.first_row = rows;
    slice.num_tokens = s.tokens.empty() ? 1 : s.tokens[i];
    slice.context_tokens = s.context[i];
    slice.first_page = pages;
    rows += slice.num_tokens;
    pages += (slice.context_tokens + slice.num_tokens + kPageTokens - 1) / kPageTokens;
    host_slices.push_back(slice);
  }
  const int pool = pages + 3;
  std::vector<int32_t> table(pool);
  std::iota(table.begin(), table.end(), 0);
  std::shuffle(table.begin(), table.end(), std::mt19937(static_cast<unsigned>(s.seed)));
  table.resize(pages);
  for (int h = 0; h < s.num_heads; h++) {
    host_heads.push_back({s.alpha[h % s.alpha.size()], s.slope[h % s.slope.size()]});
  }
  const size_t slots = size_t(pool) * s.num_kv_heads * kPageTokens;
  const size_t width = size_t(s.num_heads) * s.head_dim;
  q = DeviceArray<__nv_bfloat16>(rows * width);
  out = DeviceArray<__nv_bfloat16>(rows * width);
  keys = DeviceArray<__nv_bfloat16>(slots * s.head_dim);
  values = DeviceArray<__nv_bfloat16>(slots * s.head_dim);
  shadow = DeviceArray<int8_t>(slots * s.head_dim);
  shadow_scale = DeviceArray<ShadowScale>(slots);
  page_key_norms = DeviceArray<float>(slots / kPageTokens);
  page_table = DeviceArray<int32_t>(table.size());
  slices = DeviceArray<Slice>(host_slices.size());
  heads = DeviceArray<Head>(host_heads.size());
  stats = DeviceArray<AttentionStats>(host_slices.size());
  page_table.Set(table);
  slices.Set(host_slices);
  heads.Set(host_heads);
  REQUIRE_CUDA(
      cudaMemset(keys.get(), 0xff, slots * s.head_dim * 2));  // NaN where nothing is written
  REQUIRE_CUDA(cudaMemset(values.get(), 0xff, slots * s.head_dim * 2));
  REQUIRE_CUDA(cudaMemset(shadow.get(), 0x7f, slots * s.head_dim));
  REQUIRE_CUDA(cudaMemset(shadow_scale.get(), 0xff, slots * sizeof(ShadowScale)));
  REQUIRE_CUDA(cudaMemset(page_key_norms.get(), 0, slots / kPageTokens * sizeof(float)));
  REQUIRE_CUDA(cudaMemset(stats.get(), 0, sizeof(AttentionStats) * host_slices.size()));
  args.q = q.get();
  args.q_stride = width;
  args.out = out.get();
  args.out_stride = width;
  if (s.query_scale) {
    std::vector<float> scales(size_t(rows) * s.num_heads);
    std::mt19937 rng(5);
    for (float& x : scales) x = std::uniform_real_distribution<float>(0.3f, 1.7f)(rng);
    query_scale = DeviceArray<float>(scales.size());
    query_scale.Set(scales);
    args.query_scale = query_scale.get();
    args.query_scale_stride = s.num_heads;
  }
  args.keys = keys.get();
  args.values = values.get();
  args.shadow = shadow.get();
  args.shadow_scale = shadow_scale.get();
  args.num_pages = pool;
  args.page_table = page_table.get();
  args.slices = slices.get();
  args.host_slices = host_slices.data();
  args.num_slices = sequences;
  args.num_rows = rows;
  args.heads = heads.get();
  args.host_heads = host_heads.data();
  args.num_heads = s.num_heads;
  args.num_kv_heads = s.num_kv_heads;
  args.head_dim = s.head_dim;
  args.scale = 1 / std::sqrt(static_cast<float>(s.head_dim));
  args.sliding_window = s.sliding_window;
  args.causal = s.causal;
  FillNormal<<<512, kThreads>>>(q.get(), rows * width, std::sqrt(s.sigma), s.seed * 3 + 1);
  for (int i = 0; i < sequences; i++) {
    FillCache<<<2048, kThreads>>>(args, i,
                                  host_slices[i].context_tokens + host_slices[i].num_tokens, s.keys,
                                  std::sqrt(s.sigma), s.seed * 1000 + i, page_key_norms.get());
  }
  if (s.key_norms) args.page_key_norms = page_key_norms.get();
  REQUIRE_CUDA(cudaGetLastError());
  REQUIRE_CUDA(cudaDeviceSynchronize());
}

void Case::Plan(bool shadow) {
  int device = 0, blocks = 0;
  REQUIRE_CUDA(cudaGetDevice(&device));
  REQUIRE_CUDA(cudaDeviceGetAttribute(&blocks, cudaDevAttrMultiProcessorCount, device));
  DecodePlanOptions o;
  o.num_heads = spec.num_heads;
  o.num_kv_heads = spec.num_kv_heads;
  o.head_dim = spec.head_dim;
  o.sliding_window = spec.sliding_window;
  o.causal = spec.causal;
  o.heads = host_heads;
  o.has_shadow = shadow;
  o.shadow_min_pages = 0;
  o.num_blocks = blocks;
  plan = MakeDecodePlan(o, host_slices);
  const size_t bytes = DecodeWorkspaceBytes(plan, spec.head_dim);
  workspace = DeviceArray<char>(bytes);
  REQUIRE_CUDA(cudaMemset(workspace.get(), 0xff, bytes));
  args.workspace = workspace.get();
  args.workspace_bytes = bytes;
  std::vector<std::byte> host(plan.DeviceBytes());
  plan.Serialize(host.data());
  device_plan = DeviceArray<char>(host.size());
  REQUIRE_CUDA(cudaMemcpy(device_plan.get(), host.data(), host.size(), cudaMemcpyHostToDevice));
}

void Case::Run() { Decode(args, plan, device_plan.get()); }

Reference ComputeReference(const Case& c) {
  const AttentionArgs& a = c.args;
  DeviceArray<double> out(size_t(a.num_rows) * a.num_heads * a.head_dim);
  DeviceArray<int> support(size_t(a.num_rows) * a.num_heads);
  size_t longest = 0;
  for (const Slice& s : c.host_slices) {
    longest = std::max<size_t>(longest, s.context_tokens + s.num_tokens);
  }
  DeviceArray<double> scores(longest * a.num_heads);
  for (int i = 0; i < a.num_slices; i++) {
    for (int t = 0; t < c.host_slices[i].num_tokens; t++) {
      for (int h = 0; h < a.num_heads; h++) {
        ReferenceScores<<<256, kThreads>>>(a, i, t, h, scores.get() + h * longest);
      }
      ReferenceRow<<<a.num_heads, kThreads>>>(a, i, t, 0, scores.get(), longest, out.get(),
                                              support.get());
    }
  }
  REQUIRE_CUDA(cudaGetLastError());
  REQUIRE_CUDA(cudaDeviceSynchronize());
  return {out.Get(), support.Get()};
}

}  // namespace tauserve::cuda
