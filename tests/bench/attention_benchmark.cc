// Attention on random normal queries and keys, entmax-1.5 beside softmax on the same pages: prefill of one chunk of 512
// tokens behind a cached prefix, and decode of one token. head_dim 64, 8 query heads on 4 KV heads, bfloat16 cache, one
// thread unless TAUSERVE_BENCH_THREADS says otherwise. The counters are the time relative to softmax's and the mean
// support.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#include "kernels/backend.h"

namespace tauserve {
namespace {

constexpr int kHeads = 8, kKvHeads = 4, kDim = 64;

// A cache of `context` random keys and values, and one step's queries.
class Bench {
 public:
  Bench(int context, int tokens, float sigma) : context_(context), tokens_(tokens) {
    BackendOptions options;
    const char* threads = std::getenv("TAUSERVE_BENCH_THREADS");
    options.threads = threads ? std::atoi(threads) : 1;
    options.device = "cpu";
    options.kv_type = DataType::kBFloat16;
    backend_ = *CreateBackend(options);
    const int pages = (context + tokens) / kPageTokens + 1;
    pages_.resize(pages);
    std::iota(pages_.begin(), pages_.end(), 0);
    if (!backend_->CreateKvCache({1, kKvHeads, kDim, pages}).ok()) std::abort();
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    const int kn = kKvHeads * kDim, rows = context + tokens;
    std::vector<float> k(size_t(rows) * kn), v(k.size());
    for (float& x : k) x = normal(random) * std::sqrt(sigma);
    for (float& x : v) x = normal(random);
    const SequenceSlice all{0, rows, 0, pages_.data()};
    backend_->BeginStep({&all, 1});
    backend_->AppendKv(0, {k.data(), rows, kn, kn}, {v.data(), rows, kn, kn});
    backend_->Synchronize();
    q_.resize(size_t(tokens) * kHeads * kDim);
    out_.resize(q_.size());
    for (float& x : q_) x = normal(random) * std::sqrt(sigma);
  }

  AttentionStats Run(float alpha) {
    AttentionSpec spec;
    spec.num_heads = kHeads;
    spec.num_kv_heads = kKvHeads;
    spec.head_dim = kDim;
    spec.scale = 1 / std::sqrt(static_cast<float>(kDim));
    spec.alpha.assign(kHeads, alpha);
    spec.alibi_slope.assign(kHeads, 0.0f);
    const SequenceSlice slice{0, tokens_, context_, pages_.data()};
    const int64_t width = kHeads * kDim;
    backend_->BeginStep({&slice, 1});
    backend_->Attention(0, spec, {q_.data(), tokens_, width, width}, Matrix(),
                        {out_.data(), tokens_, width, width});
    backend_->Synchronize();
    return backend_->stats()[0];
  }

 private:
  int context_, tokens_;
  std::unique_ptr<Backend> backend_;
  std::vector<PageId> pages_;
  std::vector<float> q_, out_;
};

double Seconds(const std::function<void()>& f) {
  const auto start = std::chrono::steady_clock::now();
  f();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void Compare(benchmark::State& state, int tokens) {
  Bench bench(static_cast<int>(state.range(0)), tokens, state.range(1));
  double entmax = 1e30, softmax = 1e30;
  AttentionStats stats;
  for (auto _ : state) {
    const double e = Seconds([&] { stats = bench.Run(1.5f); });
    const double s = Seconds([&] { bench.Run(1.0f); });
    state.SetIterationTime(e);
    entmax = std::min(entmax, e);
    softmax = std::min(softmax, s);
  }
  state.counters["softmax_ms"] = softmax * 1e3;
  state.counters["entmax_ms"] = entmax * 1e3;
  state.counters["entmax/softmax"] = entmax / softmax;
  state.counters["support"] = static_cast<double>(stats.support) / stats.rows;
  state.counters["wide_rows"] = static_cast<double>(stats.wide_rows) / stats.rows;
  state.counters["tau_steps"] = static_cast<double>(stats.tau_iterations) / stats.rows;
}

void Prefill(benchmark::State& state) { Compare(state, 512); }
void Decode(benchmark::State& state) { Compare(state, 1); }

BENCHMARK(Prefill)
    ->ArgsProduct({{4096, 16384}, {1, 2}})
    ->ArgNames({"context", "sigma"})
    ->UseManualTime()
    ->Iterations(5)
    ->Unit(benchmark::kMillisecond);
BENCHMARK(Decode)
    ->ArgsProduct({{4096, 16384, 131072}, {1, 2}})
    ->ArgNames({"context", "sigma"})
    ->UseManualTime()
    ->Iterations(20)
    ->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace tauserve

BENCHMARK_MAIN();
