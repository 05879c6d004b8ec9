#include <cmath>
#include <random>
#include <thread>

#include "kernels/cuda/attention_generic.h"
#include "kernels/cuda/cuda_check.h"
#include "kernels/cuda/flash.h"
#include "kernels/cuda/flash_sm90.h"
#include "kernels/cuda/prefill_plan.h"
#include "kernels/cuda/prefill_sm90.h"
#include "tests/gpu/normal.h"
#include "tests/gpu/prefill_case.h"

namespace tauserve::cuda {
namespace {

__global__ void FillRows(__nv_bfloat16* to, int64_t n, float scale, uint64_t seed) {
  for (int64_t i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
    to[i] = __float2bfloat16(Normal(i, seed) * scale);
  }
}

// Fills used slots of a slice's pages. key: position in the slice.
__global__ void FillPages(__nv_bfloat16* pool, const int32_t* pages, int keys, int kv_heads,
                          int dim, float scale, uint64_t seed, Data data) {
  const int64_t n = static_cast<int64_t>(keys) * kv_heads * dim;
  for (int64_t i = blockIdx.x * blockDim.x + threadIdx.x; i < n;
       i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    const int d = i % dim, h = i / dim % kv_heads, key = i / dim / kv_heads;
    uint64_t source = i;
    float x = scale;
    if (data == Data::kEqual) source = d;
    if (data == Data::kTies) source = (key * 2654435761u >> 7) % 5 * dim + d;
    if (data == Data::kFewLarge && key % 1000 == 7) x *= 6;
    if (data == Data::kGrowing) {
      source = d;  // the same direction, longer and longer
      x *= 0.2f + 2.0f * key / keys;
    }
    if (data == Data::kSpread) x *= 40;
    if (data == Data::kTiny) x *= 1e-20f;
    const int64_t row =
        (static_cast<int64_t>(pages[key / kPageTokens]) * kv_heads + h) * kPageTokens +
        key % kPageTokens;
    pool[row * dim + d] = __float2bfloat16(Normal(source, seed) * x);
  }
}

__global__ void PageNorms(const __nv_bfloat16* pool, float* norms, int pages, int dim) {
  const int page = blockIdx.x * blockDim.x + threadIdx.x;
  if (page >= pages) return;
  float most = 0;
  for (int t = 0; t < kPageTokens; t++) {
    float sum = 0;
    for (int d = 0; d < dim; d++) {
      const float x =
          __bfloat162float(pool[(static_cast<int64_t>(page) * kPageTokens + t) * dim + d]);
      sum += x * x;
    }
    if (sum > most) most = sum;  // NaN slots don't count
  }
  norms[page] = sqrtf(most) * 1.0001f;
}

template <typename T>
T* Device(size_t n) {
  T* p = nullptr;
  CUDA_CHECK(cudaMalloc(&p, std::max<size_t>(n, 1) * sizeof(T)));
  return p;
}
template <typename T>
T* Upload(const std::vector<T>& x) {
  T* p = Device<T>(x.size());
  CUDA_CHECK(cudaMemcpy(p, x.data(), x.size() * sizeof(T), cudaMemcpyHostToDevice));
  return p;
}
template <typename T>
std::vector<T> Download(const T* p, size_t n) {
  std::vector<T> x(n);
  CUDA_CHECK(cudaMemcpy(x.data(), p, n * sizeof(T), cudaMemcpyDeviceToHost));
  return x;
}

int CeilPages(int n) { return (n + kPageTokens - 1) / kPageTokens; }

// Of scores whose maximum is 0.
double Threshold(const std::vector<double>& a, double alpha) {
  std::vector<double> near;
  std::copy_if(a.begin(), a.end(), std::back_inserter(near), [](double y) { return y > -1; });
  double low = -1, high = 0;
  for (int step = 0; step < 80; step++) {
    const double t = (low + high) / 2;
    double sum = 0;
    for (double y : near) sum += y > t ? std::pow(y - t, 1 / (alpha - 1)) : 0;
    (sum > 1 ? low : high) = t;
  }
  return low;
}

}  // namespace

Problem::Problem(const Case& c) : case_(c) {
  int rows = 0, pages = 0;
  for (const auto& [tokens, context] : c.slices) {
    slices_.push_back({rows, tokens, context, pages});
    rows += tokens;
    pages += CeilPages(tokens + context);
  }
  const int pool = pages + 3;
  std::vector<int32_t> order(pool);
  for (int i = 0; i < pool; i++) order[i] = i;
  std::shuffle(order.begin(), order.end(), std::mt19937(7));
  table_.assign(order.begin(), order.begin() + pages);
  for (int h = 0; h < c.heads; h++) {
    heads_.push_back({c.alpha[h % c.alpha.size()], c.slope[h % c.slope.size()]});
  }
  const int64_t elements = static_cast<int64_t>(pool) * c.kv_heads * kPageTokens * c.dim;
  const int64_t out_elements = static_cast<int64_t>(rows) * c.heads * c.dim;
  args_.q_stride = args_.out_stride = c.heads * c.dim;
  __nv_bfloat16* q = Own(Device<__nv_bfloat16>(out_elements));
  __nv_bfloat16* keys = Own(Device<__nv_bfloat16>(elements));
  __nv_bfloat16* values = Own(Device<__nv_bfloat16>(elements));
  CUDA_CHECK(cudaMemset(keys, 0xff, elements * 2));  // NaN
  CUDA_CHECK(cudaMemset(values, 0xff, elements * 2));
  int32_t* table = Own(Upload(table_));
  const float scale = std::sqrt(c.sigma);
  FillRows<<<1024, 256>>>(q, out_elements, scale, 1);
  for (const Slice& s : slices_) {
    const int n = s.num_tokens + s.context_tokens;
    FillPages<<<1024, 256>>>(keys, table + s.first_page, n, c.kv_heads, c.dim, scale, 2, c.data);
    FillPages<<<1024, 256>>>(values, table + s.first_page, n, c.kv_heads, c.dim, 1, 3,
                             Data::kNormal);
  }
  if (c.key_norm) {
    float* norms = Own(Device<float>(pool * c.kv_heads));
    PageNorms<<<(pool * c.kv_heads + 127) / 128, 128>>>(keys, norms, pool * c.kv_heads, c.dim);
    args_.page_key_norms = norms;
  }
  if (c.query_scale > 0) {
    std::mt19937 random(3);
    std::normal_distribution<float> normal;
    query_scale_.resize(static_cast<size_t>(rows) * c.heads);
    for (float& x : query_scale_) x = 1 + c.query_scale * normal(random);
    query_scale_[0] = 0;
    args_.query_scale = Own(Upload(query_scale_));
    args_.query_scale_stride = c.heads;
  }
  args_.q = q;
  args_.out = Own(Device<__nv_bfloat16>(out_elements));
  args_.keys = keys;
  args_.values = values;
  args_.num_pages = pool;
  args_.page_table = table;
  args_.slices = Own(Upload(slices_));
  args_.host_slices = slices_.data();
  args_.num_slices = static_cast<int>(slices_.size());
  args_.num_rows = rows;
  args_.heads = Own(Upload(heads_));
  args_.host_heads = heads_.data();
  args_.num_heads = c.heads;
  args_.num_kv_heads = c.kv_heads;
  args_.head_dim = c.dim;
  args_.scale = 1 / std::sqrt(static_cast<float>(c.dim));
  args_.sliding_window = c.window;
  args_.causal = c.causal;
  args_.stats = Own(Device<AttentionStats>(slices_.size()));
  args_.workspace_bytes = std::max({PrefillSm90WorkspaceBytes(rows, args_.num_slices, c.heads),
                                    FlashWorkspaceBytes(args_), FlashSm90WorkspaceBytes(args_)});
  args_.workspace = Own(Device<char>(args_.workspace_bytes));
  ClearStats();
  CUDA_CHECK(cudaMemset(args_.out, 0xff, out_elements * 2));
  CUDA_CHECK(cudaDeviceSynchronize());
}

Problem::~Problem() {
  for (void* p : owned_) cudaFree(p);
}

void Problem::Run() {
  if (case_.HasAlpha(/*softmax=*/false))
    case_.generic ? AttentionGeneric(args_) : PrefillSm90(args_);
  if (!case_.HasAlpha(/*softmax=*/true)) return;
  case_.flash == FlashKind::kFlash ? Flash(args_) : FlashSm90(args_);
}

void Problem::ClearStats() {
  CUDA_CHECK(cudaMemset(args_.stats, 0, args_.num_slices * sizeof(AttentionStats)));
}
AttentionStats Problem::Stats() const { return Download(args_.stats, 1)[0]; }

bool Problem::SoftmaxStatsAreRight() const {
  const std::vector<AttentionStats> stats = Download(args_.stats, slices_.size());
  for (size_t i = 0; i < slices_.size(); i++) {
    const Slice& s = slices_[i];
    const int total = s.context_tokens + s.num_tokens;
    auto visible = [&](int position) {
      return VisibleKeys(position, total, args_.causal, args_.sliding_window);
    };
    int64_t keys = 0, blocks = 0;
    int last_stretch = -1, last_page = 0;
    for (int position = s.context_tokens; position < total; position++) {
      const KeyRange range = visible(position);
      keys += range.end - range.begin;
      if (position / kPageTokens != last_stretch) last_page = range.begin / kPageTokens - 1;
      last_stretch = position / kPageTokens;
      blocks += (range.end - 1) / kPageTokens - last_page;
      last_page = (range.end - 1) / kPageTokens;
    }
    keys *= case_.heads;
    blocks *= case_.heads;
    const AttentionStats& x = stats[i];
    if (x.keys_considered != keys || x.keys_scored != keys || x.support != keys ||
        x.blocks_considered != blocks || x.blocks_scored != blocks || x.blocks_attended != blocks ||
        x.rows != 0 || x.entmax_support != 0 || x.pages_read != x.pages_considered ||
        x.pages_read * case_.heads < blocks ||
        x.kv_bytes_read != x.pages_read * kPageTokens * case_.dim * 4) {
      return false;
    }
  }
  return true;
}

double Problem::WorstError(int rows_a_slice, std::string* where) {
  const Case& c = case_;
  const int64_t pool = static_cast<int64_t>(args_.num_pages) * c.kv_heads * kPageTokens * c.dim;
  keys_ = Download(args_.keys, pool);
  values_ = Download(args_.values, pool);
  const size_t n = static_cast<size_t>(args_.num_rows) * c.heads * c.dim;
  q_ = Download(args_.q, n);
  out_ = Download(args_.out, n);
  struct Sample {
    int slice, token, head;
    double error = 0;
  };
  std::vector<Sample> samples;
  std::mt19937 random(11);
  for (int s = 0; s < args_.num_slices; s++) {
    const int tokens = slices_[s].num_tokens;
    std::vector<int> picked = {0, 1, 15, 16, 31, 47, 48, 63, 64, 127, 128, 191, 192, tokens / 2};
    for (int i = 0; i < rows_a_slice; i++) picked.push_back(random() % tokens);
    picked.push_back(tokens - 1);
    for (int t : picked) {
      if (t < tokens) samples.push_back({s, t, static_cast<int>(random() % c.heads)});
    }
  }
  std::vector<std::thread> threads;
  for (int k = 0; k < 16; k++) {
    threads.emplace_back([&, k] {
      for (size_t i = k; i < samples.size(); i += 16) {
        samples[i].error = RowError(samples[i].slice, samples[i].token, samples[i].head);
      }
    });
  }
  for (std::thread& t : threads) t.join();
  double worst = 0;
  for (const Sample& x : samples) {
    if (x.error < worst) continue;
    worst = x.error;
    *where = "slice " + std::to_string(x.slice) + " token " + std::to_string(x.token) + " head " +
             std::to_string(x.head);
  }
  return worst;
}

double Problem::RowError(int s, int token, int head) const {
  const Case& c = case_;
  const Slice& slice = slices_[s];
  const int i = slice.context_tokens + token, total = slice.context_tokens + slice.num_tokens;
  const int row = slice.first_row + token, kv = head / (c.heads / c.kv_heads);
  const __nv_bfloat16* q = &q_[(static_cast<size_t>(row) * c.heads + head) * c.dim];
  const __nv_bfloat16* out = &out_[(static_cast<size_t>(row) * c.heads + head) * c.dim];
  const double alpha = heads_[head].alpha;
  const int end = c.causal ? i + 1 : total;
  const int begin = c.causal && c.window > 0 ? std::max(0, i + 1 - c.window) : 0;
  const double scale =
      args_.scale *
      (query_scale_.empty() ? 1.0 : query_scale_[static_cast<size_t>(row) * c.heads + head]);
  auto at = [&](int j) {
    return ((static_cast<size_t>(table_[slice.first_page + j / kPageTokens]) * c.kv_heads + kv) *
                kPageTokens +
            j % kPageTokens) *
           c.dim;
  };
  std::vector<double> a(end - begin);
  double most = -1e300;
  for (int j = begin; j < end; j++) {
    const __nv_bfloat16* k = &keys_[at(j)];
    double dot = 0;
    for (int d = 0; d < c.dim; d++) dot += (double)__bfloat162float(q[d]) * __bfloat162float(k[d]);
    a[j - begin] = (alpha == 1 ? 1 : alpha - 1) *
                   (scale * dot + (c.causal ? heads_[head].alibi_slope * (j - i) : 0));
    most = std::max(most, a[j - begin]);
  }
  for (double& x : a) x -= most;
  const double tau = alpha == 1 ? 0 : Threshold(a, alpha);
  std::vector<double> reference(c.dim, 0.0);
  double sum = 0;
  for (int j = begin; j < end; j++) {
    const double y = a[j - begin];
    const double p = alpha == 1 ? std::exp(y) : y > tau ? std::pow(y - tau, 1 / (alpha - 1)) : 0.0;
    if (p == 0) continue;
    sum += p;
    const __nv_bfloat16* v = &values_[at(j)];
    for (int d = 0; d < c.dim; d++) reference[d] += p * __bfloat162float(v[d]);
  }
  for (double& x : reference) x /= sum;
  double error = 0, norm = 0;
  for (int d = 0; d < c.dim; d++) {
    const double x = __bfloat162float(out[d]) - reference[d];
    error += x * x;
    norm += reference[d] * reference[d];
  }
  const double relative = std::sqrt(error / norm);
  return relative < 1e9 ? relative : 1e9;
}

}  // namespace tauserve::cuda
