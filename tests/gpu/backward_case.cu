#include <algorithm>
#include <cmath>
#include <mutex>
#include <thread>

#include "kernels/cuda/prefill_plan.h"
#include "tests/gpu/backward_case.h"

namespace tauserve::cuda {
namespace {

// The same normal number for the same place and seed.
__device__ float NormalAt(uint64_t place, uint64_t seed) {
  uint64_t x = place * 0x9e3779b97f4a7c15ull + seed * 0xbf58476d1ce4e5b9ull + 0x94d049bb133111ebull;
  auto mix = [&] {
    x ^= x >> 30;
    x *= 0xbf58476d1ce4e5b9ull;
    x ^= x >> 27;
    x *= 0x94d049bb133111ebull;
    x ^= x >> 31;
    return static_cast<float>((x >> 40) + 1) * (1.0f / 16777217.0f);
  };
  const float radius = sqrtf(-2 * logf(mix()));
  return radius * cosf(6.2831853f * mix());
}

__global__ void FillNormal(__nv_bfloat16* to, int64_t n, int dim, float scale, uint64_t seed,
                           TrainedKeys keys, bool queries) {
  for (int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x; i < n;
       i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    float x = NormalAt(keys == TrainedKeys::kEqual && !queries ? i % dim : i, seed) * scale;
    const int64_t row = i / dim;
    if (keys == TrainedKeys::kFewLarge && !queries && row % 100 == 7) x *= 6;
    // Every query has much of the first element, and few keys do.
    if (keys == TrainedKeys::kSink && i % dim == 0) x = queries || row < 8 ? 6.0f * scale : 0.0f;
    to[i] = __float2bfloat16(x);
  }
}

void Fill(const DeviceArray<__nv_bfloat16>& to, int dim, float scale, uint64_t seed,
          TrainedKeys keys = TrainedKeys::kNormal, bool queries = false) {
  FillNormal<<<2048, 256>>>(to.get(), to.size(), dim, scale, seed, keys, queries);
  REQUIRE_CUDA(cudaGetLastError());
}

std::vector<double> Doubles(const std::vector<__nv_bfloat16>& x) {
  std::vector<double> y(x.size());
  for (size_t i = 0; i < x.size(); i++) y[i] = __bfloat162float(x[i]);
  return y;
}

double Dot(const double* a, const double* b, int n) {
  double sum = 0;
  for (int i = 0; i < n; i++) sum += a[i] * b[i];
  return sum;
}

// Of scaled scores.
double ThresholdOf(const std::vector<double>& s, double alpha) {
  const double most = *std::max_element(s.begin(), s.end());
  double low = most - 1, high = most;
  for (int step = 0; step < 100; step++) {
    const double t = (low + high) / 2;
    double sum = 0;
    for (double x : s) sum += x > t ? std::pow(x - t, 1 / (alpha - 1)) : 0;
    (sum > 1 ? low : high) = t;
  }
  return low;
}

}  // namespace

BackwardProblem::BackwardProblem(const BackwardCase& c) : case_(c) {
  TrainingBatch batch;
  int64_t tokens = 0, keys = 0;
  for (const auto& [n, context] : c.sequences) {
    host_sequences_.push_back({static_cast<int>(tokens), n, static_cast<int>(keys), n + context});
    tokens += n;
    keys += n + context;
  }
  for (int h = 0; h < c.heads; h++) {
    host_heads_.push_back({c.alpha[h % c.alpha.size()], c.slope[h % c.slope.size()]});
  }
  sequences_ = DeviceArray<TrainedSequence>(host_sequences_.size());
  sequences_.Set(host_sequences_);
  heads_ = DeviceArray<Head>(host_heads_.size());
  heads_.Set(host_heads_);
  batch.sequences = sequences_.get();
  batch.host_sequences = host_sequences_.data();
  batch.num_sequences = static_cast<int>(host_sequences_.size());
  batch.num_tokens = static_cast<int>(tokens);
  batch.num_keys = static_cast<int>(keys);
  batch.heads = heads_.get();
  batch.host_heads = host_heads_.data();
  batch.num_heads = c.heads;
  batch.num_kv_heads = c.kv_heads;
  batch.head_dim = c.dim;
  batch.scale = 1 / std::sqrt(static_cast<float>(c.dim));
  batch.sliding_window = c.window;
  batch.causal = c.causal;

  const int64_t rows = tokens * c.heads;
  for (auto* x : {&q_, &out_, &d_out_, &dq_}) *x = DeviceArray<__nv_bfloat16>(rows * c.dim);
  for (auto* x : {&k_, &v_, &dk_, &dv_}) {
    *x = DeviceArray<__nv_bfloat16>(keys * c.kv_heads * c.dim);
  }
  const float scale = std::sqrt(c.sigma);
  Fill(q_, c.dim, scale, 1, c.keys, /*queries=*/true);
  Fill(k_, c.dim, scale, 2, c.keys);
  Fill(v_, c.dim, 1, 3);
  Fill(d_out_, c.dim, 1, 4);
  threshold_ = DeviceArray<float>(rows);
  count_ = DeviceArray<int32_t>(rows);
  first_ = DeviceArray<int64_t>(rows);
  used_ = DeviceArray<unsigned long long>(1);
  KeptSupport kept;
  kept.capacity = static_cast<int64_t>(static_cast<double>(rows) * c.kept_a_row);
  entries_ = DeviceArray<KeptEntry>(kept.capacity);
  kept.threshold = threshold_.get();
  kept.count = count_.get();
  kept.first = first_.get();
  kept.entries = entries_.get();
  kept.used = used_.get();

  static_cast<TrainingBatch&>(forward_) = batch;
  forward_.q = q_.get();
  forward_.k = k_.get();
  forward_.v = v_.get();
  forward_.out = out_.get();
  forward_.kept = kept;
  static_cast<TrainingBatch&>(backward_) = batch;
  backward_.q = q_.get();
  backward_.k = k_.get();
  backward_.v = v_.get();
  backward_.d_out = d_out_.get();
  backward_.dq = dq_.get();
  backward_.dk = dk_.get();
  backward_.dv = dv_.get();
  backward_.kept = kept;
  backward_.deterministic = c.deterministic;
  workspace_ = DeviceArray<char>(
      std::max(TrainingForwardWorkspaceBytes(forward_), BackwardWorkspaceBytes(backward_)));
  workspace_.Fill(0xff);
  forward_.workspace = backward_.workspace = workspace_.get();
  forward_.workspace_bytes = backward_.workspace_bytes = workspace_.size();
  Poison();
}

void BackwardProblem::Poison() {
  for (auto* x : {&out_, &dq_, &dk_, &dv_}) x->Fill(0xff);
  threshold_.Fill(0xff);
  first_.Fill(0xff);
  REQUIRE_CUDA(cudaDeviceSynchronize());
}

Gradients BackwardProblem::Result() const {
  return {Doubles(out_.Get()), Doubles(dq_.Get()), Doubles(dk_.Get()), Doubles(dv_.Get()), {}};
}
std::vector<__nv_bfloat16> BackwardProblem::Bits() const {
  std::vector<__nv_bfloat16> all;
  for (const auto* x : {&dq_, &dk_, &dv_}) {
    const std::vector<__nv_bfloat16> one = x->Get();
    all.insert(all.end(), one.begin(), one.end());
  }
  return all;
}

double BackwardProblem::MeanSupport() const {
  double sum = 0;
  for (int32_t n : count_.Get()) sum += n;
  return sum / num_rows();
}
double BackwardProblem::KeptShare() const {
  double kept = 0;
  for (int64_t first : first_.Get()) kept += first >= 0;
  return kept / num_rows();
}

Gradients BackwardProblem::Reference() const {
  const std::vector<double> q = Doubles(q_.Get()), k = Doubles(k_.Get()), v = Doubles(v_.Get()),
                            d_out = Doubles(d_out_.Get());
  const int dim = case_.dim, group = case_.heads / case_.kv_heads;
  const double scale = forward_.scale;
  Gradients g;
  g.out.assign(q.size(), 0);
  g.dq.assign(q.size(), 0);
  g.dq_terms.assign(q.size() / dim, 0);
  g.dk.assign(k.size(), 0);
  g.dv.assign(k.size(), 0);
  auto head_of = [&](int kv_head) {  // all rows of a KV head: no other writes its gradients
    for (const TrainedSequence& s : host_sequences_) {
      for (int i = 0; i < s.num_tokens * group; i++) {
        const int token = i / group, head = kv_head * group + i % group;
        const int position = s.num_keys - s.num_tokens + token;
        const double alpha = host_heads_[head].alpha;
        const double slope = case_.causal ? host_heads_[head].alibi_slope : 0;
        const KeyRange range = VisibleKeys(position, s.num_keys, case_.causal, case_.window);
        const int64_t row =
            (static_cast<int64_t>(s.first_token + token) * case_.heads + head) * dim;
        auto key_row = [&](int j) {
          return (static_cast<int64_t>(s.first_key + j) * case_.kv_heads + kv_head) * dim;
        };
        std::vector<double> score;
        for (int j = range.begin; j < range.end; j++) {
          score.push_back((alpha - 1) *
                          (scale * Dot(&q[row], &k[key_row(j)], dim) + slope * (j - position)));
        }
        const double tau = ThresholdOf(score, alpha);
        double weighted = 0, plain = 0, sum = 0;
        std::vector<double> p(score.size()), gradient(score.size()), d_weight(score.size());
        for (size_t j = 0; j < score.size(); j++) {
          const double z = score[j] - tau;
          if (z <= 0) continue;
          p[j] = std::pow(z, 1 / (alpha - 1));
          gradient[j] = std::pow(z, (2 - alpha) / (alpha - 1));
          d_weight[j] = Dot(&d_out[row], &v[key_row(range.begin + static_cast<int>(j))], dim);
          weighted += gradient[j] * d_weight[j];
          plain += gradient[j];
          sum += p[j];
        }
        std::vector<double> terms(dim);
        for (size_t j = 0; j < score.size(); j++) {
          if (p[j] == 0) continue;
          const int64_t at = key_row(range.begin + static_cast<int>(j));
          const double d_score = scale * gradient[j] * (d_weight[j] - weighted / plain);
          for (int d = 0; d < dim; d++) {
            g.out[row + d] += p[j] / sum * v[at + d];
            g.dq[row + d] += d_score * k[at + d];
            terms[d] += std::abs(scale * gradient[j] * d_weight[j] * k[at + d]);
            g.dk[at + d] += d_score * q[row + d];
            g.dv[at + d] += p[j] * d_out[row + d];
          }
        }
        g.dq_terms[row / dim] = std::sqrt(Dot(terms.data(), terms.data(), dim));
      }
    }
  };
  std::vector<std::thread> threads;
  for (int h = 0; h < case_.kv_heads; h++) threads.emplace_back(head_of, h);
  for (std::thread& t : threads) t.join();
  return g;
}

std::vector<BackwardCase> BackwardCases() {
  std::vector<BackwardCase> cases;
  for (int dim : {64, 96, 128, 256}) {
    for (double kept : {4000.0, 0.0, 12.0}) {
      const std::string start = "d" + std::to_string(dim) +
                                (kept == 0   ? " dense "
                                 : kept < 50 ? " mixed "
                                             : " lists ");
      auto add = [&](BackwardCase c) {
        c.name = start + c.name;
        c.dim = dim;
        c.kept_a_row = kept;
        cases.push_back(std::move(c));
      };
      add({.name = "causal", .sequences = {{700, 0}}});
      add({.name = "one token", .sequences = {{1, 0}}});
      add({.name = "ragged", .sequences = {{70, 0}, {1, 0}, {129, 0}, {5, 0}, {64, 0}, {300, 0}}});
      add({.name = "contexts", .sequences = {{70, 100}, {1, 300}, {64, 64}}});
      add({.name = "not causal", .sequences = {{200, 0}, {70, 30}}, .causal = false});
      add({.name = "window", .sequences = {{500, 0}, {100, 50}}, .window = 90});
      add({.name = "alibi", .sequences = {{600, 0}}, .slope = {0.5f, 0.01f}});
      add({.name = "alpha 1.25", .sequences = {{400, 0}}, .alpha = {1.25f}});
      add({.name = "alpha 2", .sequences = {{500, 0}}, .alpha = {2}});
      add({.name = "alphas", .sequences = {{400, 0}}, .alpha = {1.5f, 1.1f, 2, 1.75f}});
      add({.name = "wide", .sequences = {{500, 0}}, .sigma = 0.1f});
      add({.name = "equal", .sequences = {{300, 0}}, .keys = TrainedKeys::kEqual});
      add({.name = "few large", .sequences = {{600, 0}}, .keys = TrainedKeys::kFewLarge});
      add({.name = "sink", .sequences = {{1500, 0}}, .keys = TrainedKeys::kSink});
      add({.name = "long rows", .sequences = {{70, 60000}}, .heads = 2, .sigma = 0.13f});
      add({.name = "narrow", .sequences = {{600, 0}}, .sigma = 30});
      add({.name = "mha", .sequences = {{400, 0}}, .heads = 3, .kv_heads = 3});
      add({.name = "gqa 3", .sequences = {{300, 0}}, .heads = 6, .kv_heads = 2});
      add({.name = "gqa 8", .sequences = {{300, 0}}, .heads = 8, .kv_heads = 1});
      add({.name = "deterministic",
           .sequences = {{900, 0}, {200, 0}},
           .keys = TrainedKeys::kSink,
           .deterministic = true});
    }
  }
  return cases;
}

}  // namespace tauserve::cuda
