// Checks training's forward and backward pass on a Hopper GPU against a double-precision reference, and times them.
//
//   backward_check check [name]     every case (or those whose name contains `name`); exit status 1 if one fails
//   backward_check one <head_dim> <tokens> <sigma> [alpha [heads [kv_heads [float16]]]]   one shape, one JSON object
//   backward_check time             shapes of the benchmark, one JSON object a line
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "tests/gpu/backward_case.h"
#include "tests/gpu/event_timer.h"

namespace tauserve::cuda {
namespace {

constexpr double kTolerance = 1e-2;

// ||x - ref|| / ||ref||, and the same of the worst row, no row counting as smaller than the mean one. `terms`: norms of
// rows' terms where they may cancel; what rounding takes off these is no error.
struct Error {
  double all = 0;
  double row = 0;
};
Error ErrorOf(const std::vector<double>& x, const std::vector<double>& reference, int dim,
              const std::vector<double>& terms = {}) {
  const size_t rows = x.size() / dim;
  std::vector<double> error(rows), norm(rows);
  double errors = 0, norms = 0;
  for (size_t r = 0; r < rows; r++) {
    for (int d = 0; d < dim; d++) {
      const double want = reference[r * dim + d], e = x[r * dim + d] - want;
      error[r] += e * e;
      norm[r] += want * want;
    }
    if (!(error[r] <= 1e300)) error[r] = 1e300;  // NaN
    if (!terms.empty() && error[r] <= 1.6e-5 * terms[r] * terms[r]) error[r] = 0;
    errors += error[r];
    norms += norm[r];
  }
  double worst = 0;
  for (size_t r = 0; r < rows; r++) {
    worst = std::max(worst, error[r] / std::max({norm[r], norms / rows, 1e-20}));
  }
  return {std::sqrt(errors / std::max(norms, 1e-20)), std::sqrt(worst)};
}

// Whether the case is as it should be; says so.
template <typename Element>
bool CheckCase(const BackwardCase& c) {
  BackwardProblem<Element> problem(c);
  problem.Forward();
  problem.Backward();
  REQUIRE_CUDA(cudaDeviceSynchronize());
  const Gradients got = problem.Result(), want = problem.Reference();
  const Error out = ErrorOf(got.out, want.out, c.dim),
              dq = ErrorOf(got.dq, want.dq, c.dim, want.dq_terms),
              dk = ErrorOf(got.dk, want.dk, c.dim), dv = ErrorOf(got.dv, want.dv, c.dim);
  bool ok = true;
  for (const Error& e : {out, dq, dk, dv}) ok &= e.all <= kTolerance && e.row <= 2 * kTolerance;
  bool same = true;
  if (c.deterministic) {
    const std::vector<Element> bits = problem.Bits();
    for (int i = 0; i < 3; i++) {
      problem.Poison();
      problem.Forward();
      problem.Backward();
      const std::vector<Element> again = problem.Bits();
      same &= std::memcmp(bits.data(), again.data(), bits.size() * 2) == 0;
    }
  }
  ok &= same;
  std::printf(
      "%s %-35s out %.1e dq %.1e (row %.1e) dk %.1e (%.1e) dv %.1e (%.1e) support %.1f kept "
      "%.2f%s\n",
      ok ? "ok  " : "FAIL", c.name.c_str(), out.all, dq.all, dq.row, dk.all, dk.row, dv.all, dv.row,
      problem.MeanSupport(), problem.KeptShare(), same ? "" : " differs");
  std::fflush(stdout);
  return ok;
}

int Check(const std::string& filter) {
  int failed = 0, run = 0;
  for (const BackwardCase& c : BackwardCases()) {
    if (c.name.find(filter) == std::string::npos) continue;
    run++;
    failed += !(c.float16 ? CheckCase<__half>(c) : CheckCase<__nv_bfloat16>(c));
  }
  std::printf("%d of %d cases failed\n", failed, run);
  return failed > 0 || run == 0;
}

template <typename Element>
void Time(const BackwardCase& c) {
  BackwardProblem<Element> problem(c);
  const int tokens = c.sequences[0].first;
  const int runs = tokens > 50000 ? 3 : 7;
  const float forward = MedianMilliseconds(runs, [&] { problem.Forward(); });
  const float backward = MedianMilliseconds(runs, [&] { problem.Backward(); });
  std::printf(
      "{\"name\": \"%s\", \"type\": \"%s\", \"dim\": %d, \"tokens\": %d, \"heads\": %d, "
      "\"kv_heads\": %d, \"alpha\": "
      "%.2f, \"sigma\": %.2f, \"deterministic\": %s, \"forward_ms\": %.4f, \"backward_ms\": %.4f, "
      "\"support\": %.1f, \"kept\": %.3f}\n",
      c.name.c_str(), c.float16 ? "float16" : "bfloat16", c.dim, tokens, c.heads, c.kv_heads,
      c.alpha[0], c.sigma, c.deterministic ? "true" : "false", forward, backward,
      problem.MeanSupport(), problem.KeptShare());
  std::fflush(stdout);
}

void TimeAll() {
  for (int dim : {64, 128}) {
    // As much memory for kept entries as q, k, v and the output take.
    const double room = dim * 2 * 4 / sizeof(KeptEntry);
    auto time = [&](BackwardCase c) {
      c.heads = c.kv_heads = 16;
      c.dim = dim;
      c.kept_a_row = room;
      Time<__nv_bfloat16>(c);
    };
    for (int n = 4096; n <= 131072; n *= 2) {
      for (float sigma : {1.0f, 2.0f, 4.0f}) {
        time({.name = "causal", .sequences = {{n, 0}}, .sigma = sigma});
      }
    }
    for (float sigma : {0.5f, 0.1f}) {
      time({.name = "wide", .sequences = {{16384, 0}}, .sigma = sigma});
    }
    time({.name = "equal", .sequences = {{16384, 0}}, .keys = TrainedKeys::kEqual});
    time({.name = "deterministic", .sequences = {{16384, 0}}, .deterministic = true});
  }
}

}  // namespace
}  // namespace tauserve::cuda

int main(int argc, char** argv) {
  using namespace tauserve::cuda;
  const std::string mode = argc > 1 ? argv[1] : "check";
  if (mode == "check") return Check(argc > 2 ? argv[2] : "");
  if (mode == "one" && argc > 4) {
    BackwardCase c{.name = "one",
                   .sequences = {{std::atoi(argv[3]), 0}},
                   .heads = argc > 6 ? std::atoi(argv[6]) : 16,
                   .kv_heads = argc > 7 ? std::atoi(argv[7]) : 16,
                   .dim = std::atoi(argv[2]),
                   .sigma = static_cast<float>(std::atof(argv[4]))};
    if (argc > 5) c.alpha = {static_cast<float>(std::atof(argv[5]))};
    c.float16 = argc > 8 && std::strcmp(argv[8], "float16") == 0;
    c.kept_a_row = 2.0 * c.dim;
    c.float16 ? Time<__half>(c) : Time<__nv_bfloat16>(c);
    return 0;
  }
  if (mode == "time") {
    TimeAll();
    return 0;
  }
  std::fprintf(stderr,
               "usage: backward_check check [name] | one <head_dim> <tokens> <sigma> ... | time\n");
  return 2;
}
