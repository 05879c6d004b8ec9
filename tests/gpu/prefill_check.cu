// Checks the prefill kernels (prefill_sm90, attention_generic, flash, flash_sm90) against a double-precision reference on
// sampled rows, over shapes, features and adversarial inputs, and times them. Needs a Hopper GPU and nothing else.
//
// nvcc -O3 -std=c++20 -I. -gencode arch=compute_90a,code=sm_90a tests/gpu/prefill_{check,case}.cu
//   tests/gpu/prefill_cases.cc kernels/cuda/{prefill_{search_,dense_,}sm90,attention_generic,flash{,_merge,_sm90}}.cu
//
//   prefill_check plan              how work is cut into blocks, on the host; needs no GPU
//   prefill_check check [name]      every case (or those whose name contains `name`); exit status 1 if one fails
//   prefill_check one <head_dim> <tokens> <sigma> [alpha]   one shape, for a profiler; alpha 1: both flash kernels
//   prefill_check time [full]       one JSON object a line: shape, sigma, milliseconds (median), statistics
//   prefill_check time_flash        the same of the flash kernels
//   prefill_check time_generic      the same of what GPUs other than Hopper run for entmax
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "kernels/cuda/cuda_check.h"
#include "kernels/cuda/prefill_plan.h"
#include "tests/gpu/event_timer.h"
#include "tests/gpu/prefill_case.h"

namespace tauserve::cuda {
namespace {

constexpr double kTolerance =
    4e-3;  // relative error of a row: bf16 output, design document, section 7

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
    const int runs = c.slices[0].first + c.slices[0].second > 50000 ? 3 : 9;
    medians[with_stats] = MedianMilliseconds(runs, [&] { problem.Run(); });
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