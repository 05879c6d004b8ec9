// Checks the prefill kernels (prefill_sm90, attention_generic, flash, flash_sm90) against a double-precision reference on
// sampled rows, over shapes, features and adversarial inputs, and times them. Needs a Hopper GPU and nothing else.
//
// nvcc -O3 -std=c++20 -I. -gencode arch=compute_90a,code=sm_90a tests/gpu/prefill_check.cu
//   kernels/cuda/{prefill_sm90,attention_generic,flash,flash_merge,flash_sm90}.cu
//
//   prefill_check plan              how work is cut into blocks, on the host; needs no GPU
//   prefill_check check [name]      every case (or those whose name contains `name`); exit status 1 if one fails
//   prefill_check one <head_dim> <tokens> <sigma> [alpha]   one shape, for a profiler; alpha 1: both flash kernels
//   prefill_check time [full]       one JSON object a line: shape, sigma, milliseconds (median), statistics
//   prefill_check time_flash        the same of the flash kernels
//   prefill_check time_generic      the same of what GPUs other than Hopper run for entmax
#include <cuda_bf16.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "kernels/cuda/attention_generic.h"
#include "kernels/cuda/cuda_check.h"
#include "kernels/cuda/flash.h"
#include "kernels/cuda/flash_sm90.h"
#include "kernels/cuda/prefill_plan.h"
#include "kernels/cuda/prefill_sm90.h"

namespace tauserve::cuda {
namespace {

constexpr double kTolerance =
    4e-3;  // relative error of a row: bf16 output, design document, section 7

// Which kernel takes the softmax heads.
enum class FlashKind { kFlash, kFlashSm90 };
const char* NameOf(FlashKind kind) { return kind == FlashKind::kFlash ? "flash" : "flash_sm90"; }

enum class Data { kNormal, kEqual, kFewLarge, kTies, kGrowing, kSpread, kTiny };

struct Case {
  std::string name;
  std::vector<std::pair<int, int>> slices;  // new tokens, context tokens
  int heads = 4, kv_heads = 2, dim = 64;
  std::vector<float> alpha = {1.5f};  // repeated over the heads
  std::vector<float> slope = {0.0f};
  int window = 0;
  bool causal = true;
  float query_scale = 0;  // spread of the per row and head scales around 1; 0 = none
  float sigma = 2;        // of the logits
  Data data = Data::kNormal;
  bool key_norm = false;
  FlashKind flash = FlashKind::kFlash;
  bool generic = false;  // attention_generic takes the entmax heads

  bool HasAlpha(bool softmax) const {
    return std::any_of(alpha.begin(), alpha.end(), [&](float a) { return (a == 1) == softmax; });
  }
};

__device__ float Normal(uint64_t i, uint64_t seed) {
  uint64_t z = (i + 1) * 0x9E3779B97F4A7C15ull + seed * 0xD1B54A32D192ED03ull;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
  z ^= z >> 31;
  const float u = (static_cast<uint32_t>(z >> 40) + 0.5f) / 16777216;
  const float w = (static_cast<uint32_t>(z & 0xffffff) + 0.5f) / 16777216;
  return sqrtf(-2 * logf(u)) * cospif(2 * w);
}

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

// A case's tensors on the device.
class Problem {
 public:
  explicit Problem(const Case& c) : case_(c) {
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
  ~Problem() {
    for (void* p : owned_) cudaFree(p);
  }
  Problem(const Problem&) = delete;

  void Run() {
    if (case_.HasAlpha(/*softmax=*/false))
      case_.generic ? AttentionGeneric(args_) : PrefillSm90(args_);
    if (!case_.HasAlpha(/*softmax=*/true)) return;
    case_.flash == FlashKind::kFlash ? Flash(args_) : FlashSm90(args_);
  }
  AttentionArgs& args() { return args_; }
  void ClearStats() {
    CUDA_CHECK(cudaMemset(args_.stats, 0, args_.num_slices * sizeof(AttentionStats)));
  }
  AttentionStats Stats() const { return Download(args_.stats, 1)[0]; }

  // Whether what was counted of softmax heads is right; for cases without others.
  bool SoftmaxStatsAreRight() const {
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
          x.blocks_considered != blocks || x.blocks_scored != blocks ||
          x.blocks_attended != blocks || x.rows != 0 || x.entmax_support != 0 ||
          x.pages_read != x.pages_considered || x.pages_read * case_.heads < blocks ||
          x.kv_bytes_read != x.pages_read * kPageTokens * case_.dim * 4) {
        return false;
      }
    }
    return true;
  }

  // The worst relative error of sampled rows; NaN counts as 1e9.
  double WorstError(int rows_a_slice, std::string* where) {
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

 private:
  static int CeilPages(int n) { return (n + kPageTokens - 1) / kPageTokens; }
  template <typename T>
  T* Own(T* p) {
    owned_.push_back(p);
    return p;
  }

  // Of scores whose maximum is 0.
  static double Threshold(const std::vector<double>& a, double alpha) {
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

  double RowError(int s, int token, int head) const {
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
      for (int d = 0; d < c.dim; d++)
        dot += (double)__bfloat162float(q[d]) * __bfloat162float(k[d]);
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
      const double p = alpha == 1 ? std::exp(y)
                       : y > tau  ? std::pow(y - tau, 1 / (alpha - 1))
                                  : 0.0;
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

  Case case_;
  std::vector<Slice> slices_;
  std::vector<int32_t> table_;
  std::vector<Head> heads_;
  std::vector<float> query_scale_;
  AttentionArgs args_;
  std::vector<void*> owned_;
  std::vector<__nv_bfloat16> keys_, values_, q_, out_;
};

// Softmax heads, for both kernels.
void AddFlashCases(std::vector<Case>& cases) {
  std::vector<Case> added;
  auto add = [&](Case c) {
    c.name = "flash d" + std::to_string(c.dim) + " " + c.name;
    added.push_back(std::move(c));
  };
  const std::vector<float> one = {1};
  for (int dim : {32, 48, 64, 80, 96, 112, 128, 192, 208, 256}) {
    add({.name = "ragged",
         .slices = {{70, 0}, {1, 300}, {513, 1000}, {5, 0}, {64, 64}},
         .dim = dim,
         .alpha = one});
    add({.name = "odd", .slices = {{1001, 0}}, .dim = dim, .alpha = one});
  }
  for (int dim : {64, 128, 256}) {
    add({.name = "one token", .slices = {{1, 0}}, .dim = dim, .alpha = one});
    add({.name = "short", .slices = {{37, 0}}, .dim = dim, .alpha = one});
    add({.name = "block", .slices = {{128, 0}}, .dim = dim, .alpha = one});
    add({.name = "long", .slices = {{4096, 0}}, .dim = dim, .alpha = one});
    add({.name = "wide", .slices = {{2048, 0}}, .dim = dim, .alpha = one, .sigma = 0.3f});
    add({.name = "equal", .slices = {{1500, 0}}, .dim = dim, .alpha = one, .data = Data::kEqual});
    add({.name = "mha", .slices = {{700, 0}}, .heads = 3, .kv_heads = 3, .dim = dim, .alpha = one});
    add({.name = "gqa 3",
         .slices = {{700, 33}},
         .heads = 6,
         .kv_heads = 2,
         .dim = dim,
         .alpha = one});
    add({.name = "gqa 8",
         .slices = {{700, 33}},
         .heads = 8,
         .kv_heads = 1,
         .dim = dim,
         .alpha = one});
    add({.name = "chunk", .slices = {{300, 5000}}, .dim = dim, .alpha = one});
    add({.name = "parts", .slices = {{64, 20000}}, .dim = dim, .alpha = one});
    add({.name = "parts ragged",
         .slices = {{3, 9000}, {70, 0}, {1, 30}},
         .dim = dim,
         .alpha = one,
         .slope = {0, 0.01f}});
    add({.name = "parts window", .slices = {{40, 9000}}, .dim = dim, .alpha = one, .window = 5000});
    add({.name = "parts not causal",
         .slices = {{60, 9000}},
         .dim = dim,
         .alpha = one,
         .causal = false});
    add({.name = "few large",
         .slices = {{4096, 0}},
         .dim = dim,
         .alpha = one,
         .data = Data::kFewLarge});
    add({.name = "growing",
         .slices = {{3000, 0}},
         .dim = dim,
         .alpha = one,
         .data = Data::kGrowing});
    add({.name = "spread",
         .slices = {{3000, 0}},
         .dim = dim,
         .alpha = one,
         .sigma = 30,
         .data = Data::kSpread});
    add({.name = "tiny", .slices = {{1000, 0}}, .dim = dim, .alpha = one, .data = Data::kTiny});
    add({.name = "not causal",
         .slices = {{500, 77}, {100, 0}},
         .dim = dim,
         .alpha = one,
         .causal = false});
    add({.name = "window", .slices = {{1500, 100}}, .dim = dim, .alpha = one, .window = 300});
    add({.name = "window 5", .slices = {{900, 0}}, .dim = dim, .alpha = one, .window = 5});
    add({.name = "alibi",
         .slices = {{3000, 0}},
         .dim = dim,
         .alpha = one,
         .slope = {0.05f, 0, 0.5f, 1}});
    add({.name = "query scale", .slices = {{1500, 0}}, .dim = dim, .alpha = one, .query_scale = 1});
    add({.name = "query scale alibi",
         .slices = {{1500, 0}},
         .dim = dim,
         .alpha = one,
         .slope = {0.02f},
         .query_scale = 0.3f});
    add({.name = "alpha mix", .slices = {{1500, 100}}, .dim = dim, .alpha = {1, 1.5f, 1, 1}});
    add({.name = "alpha mix mha",
         .slices = {{300, 100}},
         .kv_heads = 4,
         .dim = dim,
         .alpha = {1.5f, 1}});
  }
  for (Case& c : added) {
    cases.push_back(c);
    c.flash = FlashKind::kFlashSm90;
    cases.push_back(c);
  }
}

std::vector<Case> Cases() {
  std::vector<Case> cases;
  auto add = [&](Case c) { cases.push_back(std::move(c)); };
  for (int dim : {64, 128, 96, 256}) {
    const std::string d = "d" + std::to_string(dim) + " ";
    add({.name = d + "one token", .slices = {{1, 0}}, .dim = dim});
    add({.name = d + "short", .slices = {{37, 0}}, .dim = dim});
    add({.name = d + "one block", .slices = {{192, 0}}, .heads = 2, .dim = dim});
    add({.name = d + "odd", .slices = {{1001, 0}}, .dim = dim});
    add({.name = d + "long", .slices = {{4096, 0}}, .dim = dim});
    add({.name = d + "wide", .slices = {{2048, 0}}, .dim = dim, .sigma = 0.3f});
    add({.name = d + "wider", .slices = {{2050, 0}}, .dim = dim, .sigma = 0.05f});
    add({.name = d + "equal", .slices = {{1500, 0}}, .dim = dim, .data = Data::kEqual});
    add({.name = d + "ragged",
         .slices = {{70, 0}, {1, 300}, {513, 1000}, {5, 0}, {64, 64}},
         .dim = dim});
  }
  for (int dim : {64, 128}) {
    const std::string d = "d" + std::to_string(dim) + " ";
    add({.name = d + "mha", .slices = {{700, 0}}, .heads = 3, .kv_heads = 3, .dim = dim});
    add({.name = d + "gqa 3", .slices = {{700, 33}}, .heads = 6, .kv_heads = 2, .dim = dim});
    add({.name = d + "gqa 8", .slices = {{700, 33}}, .heads = 8, .kv_heads = 1, .dim = dim});
    add({.name = d + "chunk", .slices = {{300, 5000}}, .dim = dim});
    add({.name = d + "parts", .slices = {{500, 20000}}, .dim = dim});
    add({.name = d + "parts wide", .slices = {{200, 20000}, {3, 0}}, .dim = dim, .sigma = 0.4f});
    add({.name = d + "parts alibi",
         .slices = {{200, 12000}},
         .dim = dim,
         .slope = {0, 0.01f},
         .window = 9000});
    add({.name = d + "sigma 1", .slices = {{4096, 0}}, .dim = dim, .sigma = 1});
    add({.name = d + "sigma 0.5", .slices = {{4096, 0}}, .dim = dim, .sigma = 0.5f});
    add({.name = d + "few large", .slices = {{4096, 0}}, .dim = dim, .data = Data::kFewLarge});
    add({.name = d + "ties", .slices = {{2000, 0}}, .dim = dim, .data = Data::kTies});
    add({.name = d + "growing", .slices = {{3000, 0}}, .dim = dim, .data = Data::kGrowing});
    add({.name = d + "spread",
         .slices = {{3000, 0}},
         .dim = dim,
         .sigma = 30,
         .data = Data::kSpread});
    add({.name = d + "tiny", .slices = {{1000, 0}}, .dim = dim, .data = Data::kTiny});
    add({.name = d + "not causal", .slices = {{500, 77}, {100, 0}}, .dim = dim, .causal = false});
    add({.name = d + "window", .slices = {{1500, 100}}, .dim = dim, .window = 300});
    add({.name = d + "window 5", .slices = {{900, 0}}, .dim = dim, .window = 5});
    add({.name = d + "wide window",
         .slices = {{1500, 0}},
         .dim = dim,
         .window = 700,
         .sigma = 0.2f});
    add({.name = d + "alibi", .slices = {{3000, 0}}, .dim = dim, .slope = {0.05f, 0, 0.5f, 1}});
    add({.name = d + "alibi bound",
         .slices = {{3000, 500}},
         .dim = dim,
         .slope = {0.05f, 0.1f, 0.5f, 1},
         .key_norm = true});
    add({.name = d + "alibi wide",
         .slices = {{2000, 0}},
         .dim = dim,
         .slope = {1e-4f},
         .sigma = 0.1f});
    add({.name = d + "query scale", .slices = {{1500, 0}}, .dim = dim, .query_scale = 1});
    add({.name = d + "query scale alibi",
         .slices = {{1500, 0}},
         .dim = dim,
         .slope = {0.02f},
         .query_scale = 0.3f});
    add({.name = d + "alpha 2", .slices = {{2000, 0}}, .dim = dim, .alpha = {2}});
    add({.name = d + "alpha 2 wide",
         .slices = {{2000, 0}},
         .dim = dim,
         .alpha = {2},
         .sigma = 0.01f});
    add({.name = d + "alpha 1.25", .slices = {{2000, 0}}, .dim = dim, .alpha = {1.25f}});
    add({.name = d + "alpha mix",
         .slices = {{1500, 100}},
         .dim = dim,
         .alpha = {1.1f, 1, 1.75f, 1.5f}});
    add({.name = d + "alpha mix wide",
         .slices = {{1500, 100}},
         .dim = dim,
         .alpha = {1.3f, 1, 2, 1.5f},
         .sigma = 0.1f});
  }
  AddFlashCases(cases);
  return cases;
}

// Every tile of keys once, every block of rows once.
int CheckPlan() {
  std::mt19937 random(1);
  auto below = [&](int n) { return static_cast<int>(random() % n); };
  int bad = 0;
  for (int i = 0; i < 100000; i++) {
    const int context = below(600), tokens = 1 + below(600), total = context + tokens;
    const int low = context + below(tokens), high = low + below(total - low);
    const bool causal = below(4) > 0;
    const int window = causal && below(3) == 0 ? 1 + below(500) : 0;
    const TileOrder order = MakeTileOrder(low, high, total, causal, window, below(2) == 0, 128);
    std::set<int> tiles;
    for (int k = 0; k < order.Count(); k++) tiles.insert(order.At(k));
    bad += static_cast<int>(tiles.size()) != order.Count() || *tiles.begin() != order.first ||
           *tiles.rbegin() != order.last;
  }
  for (int i = 0; i < 2000; i++) {
    std::vector<Slice> slices(1 + below(5));
    const int group = 1 + below(8), kv_heads = 1 + below(9), head_group = 1 + below(kv_heads);
    int blocks = 0;
    for (Slice& s : slices) {
      s.num_tokens = 1 + below(500);
      blocks += BlocksOfSlice(s, group, 192);
    }
    std::set<std::tuple<int, int, int>> seen;
    for (int k = 0; k < blocks * kv_heads; k++) {
      const Block b = BlockAt(k, slices.data(), static_cast<int>(slices.size()), blocks, kv_heads,
                              head_group, group, 192);
      bad += b.first_row < 0 || b.first_row >= slices[b.slice].num_tokens * group;
      seen.insert({b.slice, b.kv_head, b.first_row});
    }
    bad += static_cast<int>(seen.size()) != blocks * kv_heads;
  }
  std::printf("plan: %d bad\n", bad);
  return bad > 0;
}

int Check(const std::string& filter) {
  int failed = 0, run = 0;
  for (const Case& c : Cases()) {
    if (c.name.find(filter) == std::string::npos) continue;
    Problem problem(c);
    problem.Run();
    CUDA_CHECK(cudaDeviceSynchronize());
    std::string where;
    const double error = problem.WorstError(24, &where);
    const AttentionStats s = problem.Stats();
    const bool softmax = !c.HasAlpha(/*softmax=*/false);
    const bool ok = error <= kTolerance && (!softmax || problem.SoftmaxStatsAreRight());
    run++;
    failed += !ok;
    if (softmax) {
      std::printf("%s %-30s %-10s error %.2e (%s) statistics %s\n", ok ? "ok  " : "FAIL",
                  c.name.c_str(), NameOf(c.flash), error, where.c_str(),
                  problem.SoftmaxStatsAreRight() ? "right" : "wrong");
      continue;
    }
    std::printf(
        "%s %-24s error %.2e (%s) rows %lld support %.1f wide %lld iterations %.1f "
        "unconverged %lld residual %.1e blocks %lld/%lld/%lld scored %.3f\n",
        ok ? "ok  " : "FAIL", c.name.c_str(), error, where.c_str(), (long long)s.rows,
        s.rows ? (double)s.support / s.rows : 0.0, (long long)s.wide_rows,
        s.rows ? (double)s.tau_iterations / s.rows : 0.0, (long long)s.unconverged_rows,
        s.max_tau_residual, (long long)s.blocks_attended, (long long)s.blocks_scored,
        (long long)s.blocks_considered,
        s.keys_considered ? (double)s.keys_scored / s.keys_considered : 0.0);
    std::fflush(stdout);
  }
  std::printf("%d of %d cases failed\n", failed, run);
  return failed > 0;
}

void Time(const Case& c, bool check) {
  Problem problem(c);
  problem.Run();
  CUDA_CHECK(cudaDeviceSynchronize());
  const AttentionStats s = problem.Stats();
  std::string where;
  const double error = check ? problem.WorstError(6, &where) : 0;
  AttentionStats* stats = problem.args().stats;
  float medians[2];
  for (int with_stats = 0; with_stats < 2; with_stats++) {
    problem.args().stats = with_stats || c.generic ? stats : nullptr;  // generic always counts
    std::vector<float> times;
    cudaEvent_t begin, end;
    CUDA_CHECK(cudaEventCreate(&begin));
    CUDA_CHECK(cudaEventCreate(&end));
    problem.Run();
    const int runs = c.slices[0].first + c.slices[0].second > 50000 ? 3 : 9;
    for (int i = 0; i < runs; i++) {
      CUDA_CHECK(cudaEventRecord(begin));
      problem.Run();
      CUDA_CHECK(cudaEventRecord(end));
      CUDA_CHECK(cudaEventSynchronize(end));
      float ms;
      CUDA_CHECK(cudaEventElapsedTime(&ms, begin, end));
      times.push_back(ms);
    }
    std::sort(times.begin(), times.end());
    medians[with_stats] = times[times.size() / 2];
    cudaEventDestroy(begin);
    cudaEventDestroy(end);
  }
  problem.args().stats = stats;
  const double products = 2.0 * s.keys_considered * c.dim;
  if (c.alpha[0] == 1) {
    std::printf(
        "{\"name\": \"%s\", \"kernel\": \"%s\", \"dim\": %d, \"tokens\": %d, \"context\": %d, "
        "\"heads\": %d, \"kv_heads\": %d, \"ms\": %.4f, \"ms_stats\": %.4f, \"tflops\": %.0f, "
        "\"error\": %.1e}\n",
        c.name.c_str(), NameOf(c.flash), c.dim, c.slices[0].first, c.slices[0].second, c.heads,
        c.kv_heads, medians[0], medians[1], 2 * products / medians[0] / 1e9, error);
    std::fflush(stdout);
    return;
  }
  std::printf(
      "{\"name\": \"%s\", \"dim\": %d, \"tokens\": %d, \"context\": %d, \"heads\": %d, "
      "\"kv_heads\": %d, \"alpha\": %.2f, \"sigma\": %.2f, \"ms\": %.4f, \"ms_stats\": %.4f, "
      "\"tflops\": %.0f, \"support\": %.1f, \"wide\": %.3f, \"steps\": %.1f, \"error\": %.1e}\n",
      c.name.c_str(), c.dim, c.slices[0].first, c.slices[0].second, c.heads, c.kv_heads, c.alpha[0],
      c.sigma, medians[0], medians[1], products / medians[0] / 1e9, (double)s.support / s.rows,
      (double)s.wide_rows / s.rows, (double)s.tau_iterations / s.rows, error);
  std::fflush(stdout);
}

void TimeAll(bool full) {
  for (int dim : {64, 128}) {
    for (int n = 4096; n <= 131072; n *= 2) {
      for (float sigma : {1.0f, 2.0f, 4.0f}) {
        if (!full && (n == 8192 || n == 32768 || n == 65536) && sigma != 2) continue;
        Time({.name = "causal",
              .slices = {{n, 0}},
              .heads = 16,
              .kv_heads = 16,
              .dim = dim,
              .sigma = sigma},
             n == 16384);
      }
    }
    for (float sigma : {0.5f, 0.1f}) {
      Time({.name = "dense",
            .slices = {{16384, 0}},
            .heads = 16,
            .kv_heads = 16,
            .dim = dim,
            .sigma = sigma},
           true);
    }
    Time({.name = "equal",
          .slices = {{16384, 0}},
          .heads = 16,
          .kv_heads = 16,
          .dim = dim,
          .data = Data::kEqual},
         false);
    Time({.name = "gqa one shot", .slices = {{131072, 0}}, .heads = 16, .kv_heads = 4, .dim = dim},
         false);
    Time({.name = "gqa chunk", .slices = {{2048, 129024}}, .heads = 16, .kv_heads = 4, .dim = dim},
         true);
    Time({.name = "gqa", .slices = {{16384, 0}}, .heads = 16, .kv_heads = 4, .dim = dim}, false);
    Time({.name = "alpha 2",
          .slices = {{16384, 0}},
          .heads = 16,
          .kv_heads = 16,
          .dim = dim,
          .alpha = {2}},
         false);
    Time({.name = "alpha 1.25",
          .slices = {{16384, 0}},
          .heads = 16,
          .kv_heads = 16,
          .dim = dim,
          .alpha = {1.25f}},
         false);
  }
}

void TimeFlash() {
  for (int dim : {64, 128, 96, 256}) {
    for (FlashKind kind : {FlashKind::kFlash, FlashKind::kFlashSm90}) {
      auto time = [&](const char* name, int tokens, int context, int kv_heads) {
        Time({.name = name,
              .slices = {{tokens, context}},
              .heads = 16,
              .kv_heads = kv_heads,
              .dim = dim,
              .alpha = {1},
              .flash = kind},
             tokens == 16384);
      };
      for (int tokens = 4096; tokens <= 131072; tokens *= 2) {
        if ((dim == 64 || dim == 128) || tokens == 16384) time("causal", tokens, 0, 16);
      }
      time("gqa", 16384, 0, 4);
      time("gqa chunk", 2048, 129024, 4);
      time("gqa short chunk", 64, 32768, 4);
    }
  }
}

}  // namespace
}  // namespace tauserve::cuda

int Run(int argc, char** argv) {
  const std::string mode = argc > 1 ? argv[1] : "check";
  if (mode == "plan") return tauserve::cuda::CheckPlan();
  if (mode == "check") return tauserve::cuda::Check(argc > 2 ? argv[2] : "");
  if (mode == "one" && argc > 4) {
    tauserve::cuda::Case c{.name = "one",
                           .slices = {{std::atoi(argv[3]), 0}},
                           .heads = 16,
                           .kv_heads = 16,
                           .dim = std::atoi(argv[2]),
                           .sigma = static_cast<float>(std::atof(argv[4]))};
    if (argc > 5) c.alpha = {static_cast<float>(std::atof(argv[5]))};
    tauserve::cuda::Time(c, false);
    c.flash = tauserve::cuda::FlashKind::kFlashSm90;
    if (c.alpha[0] == 1) tauserve::cuda::Time(c, false);
    return 0;
  }
  if (mode == "time_generic") {
    for (int dim : {64, 128}) {
      for (int tokens : {4096, 16384}) {
        tauserve::cuda::Time({.name = "generic",
                              .slices = {{tokens, 0}},
                              .heads = 16,
                              .kv_heads = 16,
                              .dim = dim,
                              .generic = true},
                             true);
      }
    }
    return 0;
  }
  if (mode == "time_flash") {
    tauserve::cuda::TimeFlash();
    return 0;
  }
  tauserve::cuda::TimeAll(argc > 2);
  return 0;
}

int main(int argc, char** argv) {
  const int code = Run(argc, argv);
  const tauserve::cuda::CudaError& error = tauserve::cuda::FirstCudaError();
  if (error.code == cudaSuccess) return code;
  std::fprintf(stderr, "%s:%d: %s: %s\n", error.file, error.line, error.call,
               cudaGetErrorString(error.code));
  return 1;
}
