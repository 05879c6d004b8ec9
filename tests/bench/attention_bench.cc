// Attention, entmax beside softmax on the same queries, keys, values and pages with the same microkernel, and the bare
// product of queries and keys with it, which bounds both:
//   product/tokens:N/head_dim:D
//   {prefill,decode}/{entmax,softmax}/random/tokens:N/sigma:S/head_dim:D/group:G/alpha:A[/slope:B]
//   {prefill,decode}/{entmax,softmax}/recorded/<heads>/tokens:N/chunk:C
// `random`: normal queries and keys whose scores have the standard deviation sigma. `recorded`: those of the embedded
// model on one of its 64k prompts, cut to N tokens, its heads one by one; <heads> are all, alibi, narrow (mean support
// under 150 keys) or wide. The softmax peer has neither ALiBi nor entmax's query scaling to compute: it is what a user of
// a softmax model runs. Times are of one head's whole sequence (prefill) or of one token (decode). At the end come the
// ratios of medians, entmax to softmax. Environment: TAUSERVE_BENCH_THREADS (1), TAUSERVE_BENCH_KV (bfloat16 or float32),
// TAUSERVE_BENCH_REPETITIONS (3).
// Run in the repository's root, or with TAUSERVE_MODEL naming the model's folder and TAUSERVE_PROMPTS its prompts.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "kernels/backend.h"
#include "kernels/check.h"
#include "nlohmann/json.hpp"
#include "server/model/tokenizer/tokenizer.h"
#include "server/model/transformer.h"
#include "tests/bench/bare_product.h"
#include "tests/bench/recording_backend.h"
#include "tests/server/model/sequence_runner.h"

namespace tauserve {
namespace {

constexpr int kChunk = 2048;  // the server's default max_batched_tokens
constexpr int kDecodeTokens = 32;

std::string Environment(const char* name, const char* otherwise) {
  const char* value = std::getenv(name);
  return value ? value : otherwise;
}

std::unique_ptr<Backend> MakeBackend(DataType kv_type) {
  BackendOptions options;
  options.device = "cpu";
  options.threads = std::atoi(Environment("TAUSERVE_BENCH_THREADS", "1").c_str());
  options.kv_type = kv_type;
  auto backend = CreateBackend(options);
  TAUSERVE_CHECK(backend.ok(), "no CPU backend");
  return *std::move(backend);
}

DataType KvType() {
  return Environment("TAUSERVE_BENCH_KV", "bfloat16") == "float32" ? DataType::kFloat32
                                                                   : DataType::kBFloat16;
}

// Attention that is timed as one: some query heads of one KV head. Rows are `stride` elements apart.
struct Unit {
  AttentionSpec spec;
  int tokens = 0;
  int layer = 0;  // of the cache that holds its keys and values
  const float* q = nullptr;
  int64_t q_stride = 0;
  const float* query_scale = nullptr;
  int64_t scale_stride = 0;
};

// A cache of one KV head a layer, and what is run on it.
class Bench {
 public:
  Bench(int head_dim, int layers, int tokens) : backend_(MakeBackend(KvType())) {
    const int pages = tokens / kPageTokens + 1;
    pages_.resize(pages);
    std::iota(pages_.begin(), pages_.end(), 0);
    TAUSERVE_CHECK(backend_->CreateKvCache({layers, 1, head_dim, pages}).ok(), "cache");
  }

  void Append(int layer, int tokens, const float* k, const float* v, int head_dim, int64_t stride) {
    const SequenceSlice all{0, tokens, 0, pages_.data()};
    backend_->BeginStep({&all, 1});
    backend_->AppendKv(layer, {const_cast<float*>(k), tokens, head_dim, stride},
                       {const_cast<float*>(v), tokens, head_dim, stride});
    TAUSERVE_CHECK(backend_->Synchronize().ok(), "a step of the CPU");
  }

  // Tokens [begin, end) in steps of `chunk`. Softmax leaves the bias and the query's scale out.
  AttentionStats Run(const Unit& unit, bool softmax, int begin, int end, int chunk) {
    AttentionSpec spec = unit.spec;
    if (softmax) {
      spec.alpha.assign(spec.num_heads, 1.0f);
      spec.alibi_slope.assign(spec.num_heads, 0.0f);
    }
    const int64_t width = int64_t{spec.num_heads} * spec.head_dim;
    out_.resize(int64_t{chunk} * width);
    AttentionStats stats;
    for (int at = begin; at < end; at += chunk) {
      const int n = std::min(chunk, end - at);
      const SequenceSlice slice{0, n, at, pages_.data()};
      Matrix scale;
      if (unit.query_scale && !softmax) {
        scale = {const_cast<float*>(unit.query_scale + at * unit.scale_stride), n, spec.num_heads,
                 unit.scale_stride};
      }
      backend_->BeginStep({&slice, 1});
      backend_->Attention(
          unit.layer, spec,
          {const_cast<float*>(unit.q + at * unit.q_stride), n, width, unit.q_stride}, scale,
          {out_.data(), n, width, width});
      TAUSERVE_CHECK(backend_->Synchronize().ok(), "a step of the CPU");
      stats.Add(backend_->stats()[0]);
    }
    return stats;
  }

 private:
  std::unique_ptr<Backend> backend_;
  std::vector<PageId> pages_;
  std::vector<float> out_;
};

// --- What is measured

struct Problem {
  std::vector<RecordedLayer> layers;
  std::unique_ptr<Bench> bench;
  std::vector<Unit> units;
};

Problem MakeRandom(int tokens, float sigma, int head_dim, int group, float alpha, float slope) {
  Problem p;
  p.layers.resize(1);
  RecordedLayer& layer = p.layers[0];
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  layer.q.resize(int64_t{tokens} * group * head_dim);
  layer.k.resize(int64_t{tokens} * head_dim);
  layer.v.resize(layer.k.size());
  for (float& x : layer.q) x = normal(random) * std::sqrt(sigma);
  for (float& x : layer.k) x = normal(random) * std::sqrt(sigma);
  for (float& x : layer.v) x = normal(random);
  p.bench = std::make_unique<Bench>(head_dim, 1, tokens);
  p.bench->Append(0, tokens, layer.k.data(), layer.v.data(), head_dim, head_dim);
  Unit unit;
  unit.spec.num_heads = group;
  unit.spec.num_kv_heads = 1;
  unit.spec.head_dim = head_dim;
  unit.spec.scale = 1 / std::sqrt(static_cast<float>(head_dim));
  unit.spec.alpha.assign(group, alpha);
  unit.spec.alibi_slope.assign(group, slope);
  unit.tokens = tokens;
  unit.q = layer.q.data();
  unit.q_stride = int64_t{group} * head_dim;
  p.units.push_back(unit);
  return p;
}

Problem Record(int tokens) {
  const std::string folder = Environment("TAUSERVE_MODEL", "models/recall-9m");
  std::ifstream prompts(Environment("TAUSERVE_PROMPTS", "models/prompts/recall-64k.jsonl"));
  std::string line;
  std::getline(prompts, line);
  const auto tokenizer = LoadTokenizer(folder);
  TAUSERVE_CHECK(tokenizer.ok() && !line.empty(), "the model's folder or its prompts are missing");
  std::vector<int32_t> ids =
      *(*tokenizer)->Encode(nlohmann::json::parse(line)["prompt"].get<std::string>(), true);
  ids.resize(std::min<size_t>(ids.size(), tokens));
  tokens = static_cast<int>(ids.size());
  RecordingBackend recorder(MakeBackend(DataType::kFloat32));
  ModelOptions options;
  options.max_batched_tokens = kChunk;
  options.kv_cache_bytes = int64_t{tokens} * 64 << 10;
  auto model = LoadModel(folder, &recorder, options);
  TAUSERVE_CHECK(model.ok(), "the model can't be loaded");
  SequenceRunner runner(model->get(), 1);
  runner.Greedy(ids, 0, kChunk, nullptr);

  Problem p;
  p.layers = std::move(recorder.layers());
  const AttentionSpec& first = p.layers[0].spec;
  const int dim = first.head_dim, group = first.num_heads / first.num_kv_heads;
  p.bench = std::make_unique<Bench>(dim, p.layers.size() * first.num_kv_heads, tokens);
  for (size_t l = 0; l < p.layers.size(); l++) {
    RecordedLayer& layer = p.layers[l];
    for (int kv = 0; kv < first.num_kv_heads; kv++) {
      const int cache = static_cast<int>(l) * first.num_kv_heads + kv;
      p.bench->Append(cache, tokens, &layer.k[kv * dim], &layer.v[kv * dim], dim,
                      int64_t{first.num_kv_heads} * dim);
      for (int head = kv * group; head < (kv + 1) * group; head++) {
        Unit unit;
        unit.spec = layer.spec;
        unit.spec.num_heads = unit.spec.num_kv_heads = 1;
        unit.spec.alpha = {layer.spec.alpha[head]};
        unit.spec.alibi_slope = {layer.spec.alibi_slope[head]};
        unit.tokens = tokens;
        unit.layer = cache;
        unit.q = &layer.q[head * dim];
        unit.q_stride = int64_t{first.num_heads} * dim;
        unit.query_scale = &layer.query_scale[head];
        unit.scale_stride = first.num_heads;
        p.units.push_back(unit);
      }
    }
  }
  return p;
}

// The units of a kind of heads.
Problem* Recorded(int tokens, const std::string& heads, std::vector<Unit>& units) {
  static std::map<int, Problem> problems;
  static std::map<int, std::vector<std::string>> kinds;
  if (!problems.count(tokens)) {
    problems.clear();  // one at a time: they are large
    Problem& p = problems[tokens] = Record(tokens);
    for (const Unit& unit : p.units) {
      const AttentionStats s = p.bench->Run(unit, false, 0, unit.tokens, kChunk);
      const double support = static_cast<double>(s.support) / s.rows;
      kinds[tokens].push_back(unit.spec.alibi_slope[0] > 0 ? "alibi"
                              : support < 150              ? "narrow"
                                                           : "wide");
    }
  }
  Problem& p = problems[tokens];
  for (size_t i = 0; i < p.units.size(); i++) {
    if (heads == "all" || heads == kinds[tokens][i]) units.push_back(p.units[i]);
  }
  return &p;
}

void Time(benchmark::State& state, Bench& bench, const std::vector<Unit>& units, bool softmax,
          bool decode, int chunk) {
  AttentionStats stats;
  for (auto _ : state) {
    stats = AttentionStats();
    const auto start = std::chrono::steady_clock::now();
    for (const Unit& unit : units) {
      const int begin = decode ? unit.tokens - kDecodeTokens : 0;
      stats.Add(bench.Run(unit, softmax, begin, unit.tokens, decode ? 1 : chunk));
    }
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    state.SetIterationTime(seconds.count() / units.size() / (decode ? kDecodeTokens : 1));
  }
  state.counters["heads"] = units.size();
  if (softmax) return;
  state.counters["support"] = static_cast<double>(stats.support) / stats.rows;
  state.counters["tau_steps"] = static_cast<double>(stats.tau_iterations) / stats.rows;
  state.counters["wide_rows"] = static_cast<double>(stats.wide_rows) / stats.rows;
}

void Register(const std::string& name, const std::function<void(benchmark::State&, bool)>& run) {
  for (bool softmax : {false, true}) {
    const std::string full = absl::StrReplaceAll(name, {{"*", softmax ? "softmax" : "entmax"}});
    benchmark::RegisterBenchmark(full.c_str(),
                                 [run, softmax](benchmark::State& s) { run(s, softmax); })
        ->UseManualTime()
        ->Iterations(1)
        ->Repetitions(std::atoi(Environment("TAUSERVE_BENCH_REPETITIONS", "3").c_str()))
        ->ReportAggregatesOnly(false)
        ->Unit(benchmark::kMillisecond);
  }
}

void RegisterRandom(bool decode, int tokens, float sigma, int head_dim, int group, float alpha,
                    float slope = 0) {
  const std::string name =
      absl::StrCat(decode ? "decode" : "prefill", "/*/random/tokens:", tokens, "/sigma:", sigma,
                   "/head_dim:", head_dim, "/group:", group, "/alpha:", alpha,
                   slope > 0 ? absl::StrCat("/slope:", slope) : "");
  Register(name, [=](benchmark::State& state, bool softmax) {
    static std::string made;
    static Problem problem;
    if (made != name) problem = MakeRandom(tokens, sigma, head_dim, group, alpha, slope);
    made = name;
    Time(state, *problem.bench, problem.units, softmax, decode, kChunk);
  });
}

void RegisterRecorded(bool decode, int tokens, const std::string& heads, int chunk) {
  const std::string name =
      absl::StrCat(decode ? "decode" : "prefill", "/*/recorded/", heads, "/tokens:", tokens,
                   decode ? "" : absl::StrCat("/chunk:", chunk));
  Register(name, [=](benchmark::State& state, bool softmax) {
    std::vector<Unit> units;
    Problem* problem = Recorded(tokens, heads, units);
    if (units.empty()) return state.SkipWithError("no such heads");
    Time(state, *problem->bench, units, softmax, decode, chunk);
  });
}

// The causal product of N queries with N keys, masked pages whole, from one packed page: half of what softmax multiplies.
void RegisterProduct(int tokens, int head_dim) {
  const std::string name = absl::StrCat("product/tokens:", tokens, "/head_dim:", head_dim);
  benchmark::RegisterBenchmark(name.c_str(), [=](benchmark::State& state) {
    constexpr int kRows = 192;
    const cpu::BareProduct product = cpu::BareProductFor(*cpu::ChooseIsa());
    int64_t products = 0;
    for (auto _ : state) {
      products = 0;
      for (int row = 0; row < tokens; row += kRows) {
        const int pages = (std::min(row + kRows, tokens) + kPageTokens - 1) / kPageTokens;
        product(kRows, pages, head_dim);
        products += int64_t{kRows} * pages * kPageTokens * head_dim;
      }
    }
    state.counters["flops"] = benchmark::Counter(
        2.0 * products, benchmark::Counter::kIsIterationInvariantRate, benchmark::Counter::kIs1000);
  })->Unit(benchmark::kMillisecond);
}

void RegisterAll() {
  for (int head_dim : {64, 128}) RegisterProduct(16384, head_dim);
  for (int tokens : {4096, 8192, 16384, 65536}) {
    for (const char* heads : {"all", "alibi", "narrow", "wide"}) {
      RegisterRecorded(false, tokens, heads, kChunk);
    }
    RegisterRecorded(false, tokens, "all", 512);
    RegisterRecorded(true, tokens, "all", 0);
  }
  for (float sigma : {0.1f, 1.0f, 2.0f}) {
    for (int tokens : {4096, 16384, 65536}) RegisterRandom(false, tokens, sigma, 64, 1, 1.5f);
  }
  RegisterRandom(false, 16384, 0, 64, 1, 1.5f);  // all keys equal
  for (int head_dim : {32, 128, 256}) RegisterRandom(false, 16384, 1, head_dim, 1, 1.5f);
  for (int group : {2, 4, 8}) RegisterRandom(false, 16384, 1, 64, group, 1.5f);
  for (float alpha : {1.25f, 2.0f}) RegisterRandom(false, 16384, 1, 64, 1, alpha);
  for (int tokens : {4096, 32768, 131072, 1048576}) RegisterRandom(true, tokens, 2, 64, 4, 1.5f);
  for (int tokens : {32768, 131072, 1048576}) {
    RegisterRandom(true, tokens, 2, 64, 4, 1.5f, 1.0f / 1024);
  }
}

// Collects times as they are reported, for the ratios.
class Reporter : public benchmark::ConsoleReporter {
 public:
  Reporter() : ConsoleReporter(OO_None) {}
  void ReportRuns(const std::vector<Run>& runs) override {
    ConsoleReporter::ReportRuns(runs);
    for (const Run& run : runs) {
      if (run.run_type == Run::RT_Iteration && !run.error_occurred) {
        times_[run.run_name.function_name].push_back(run.GetAdjustedRealTime());
      }
    }
  }
  void PrintRatios() {
    std::printf("\nentmax / softmax, medians\n");
    for (auto& [name, times] : times_) {
      const size_t at = name.find("/entmax/");
      if (at == std::string::npos) continue;
      std::string peer = name;
      peer.replace(at, 8, "/softmax/");
      if (!times_.count(peer)) continue;
      std::string both = name;
      both.erase(at, 7);
      std::printf("%-72s %7.3f   %10.3f ms of %10.3f ms\n", both.c_str(),
                  Median(times) / Median(times_[peer]), Median(times), Median(times_[peer]));
    }
  }

 private:
  static double Median(std::vector<double> x) {
    std::sort(x.begin(), x.end());
    return x[x.size() / 2];
  }
  std::map<std::string, std::vector<double>> times_;
};

int Main(int argc, char** argv) {
  bool json = false;
  for (int i = 1; i < argc; i++) json |= std::string(argv[i]) == "--benchmark_format=json";
  RegisterAll();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  if (json) {
    benchmark::RunSpecifiedBenchmarks();
    return 0;
  }
  Reporter reporter;
  benchmark::RunSpecifiedBenchmarks(&reporter);
  reporter.PrintRatios();
  return 0;
}

}  // namespace
}  // namespace tauserve

int main(int argc, char** argv) { return tauserve::Main(argc, argv); }
