// Checks the decode kernel against a double-precision reference and times it. Prints one line a case and, for timings,
// one JSON object a line.
//   decode_check check [substring]   all cases, with bf16 keys and with the int8 shadow
//   decode_check small               few small cases, for compute-sanitizer
//   decode_check time [1M = 0 or 1]  CUDA graph replays, medians
// From the repository's root, with the decode kernel's sources:
//   nvcc -std=c++20 -O3 -I. -gencode arch=compute_90a,code=sm_90a kernels/cuda/decode.cu kernels/cuda/decode_plan.cc
//     tests/gpu/decode_case.cu tests/gpu/decode_check.cu -o decode_check
#include <algorithm>
#include <cmath>
#include <cstring>

#include "tests/gpu/decode_case.h"
#include "tests/gpu/graph_timer.h"

namespace tauserve::cuda {
namespace {

constexpr double kTolerance = 4e-3;

struct Outcome {
  double worst = 0;         // relative error of a row
  int64_t support_off = 0;  // keys of difference to the reference's supports
  bool same = true;         // a second run gave the same bits
  AttentionStats stats;
};

Outcome RunCase(Case& c, const Reference& reference, bool shadow) {
  Outcome outcome;
  c.Plan(shadow);
  std::vector<__nv_bfloat16> first;
  for (int run = 0; run < 3; run++) {
    REQUIRE_CUDA(cudaMemset(c.out.get(), 0xff, c.out.size() * 2));
    REQUIRE_CUDA(cudaMemset(c.stats.get(), 0, sizeof(AttentionStats) * c.stats.size()));
    c.args.stats = run == 1 ? nullptr : c.stats.get();
    c.Run();
    REQUIRE_CUDA(cudaGetLastError());
    REQUIRE_CUDA(cudaDeviceSynchronize());
    std::vector<__nv_bfloat16> out = c.out.Get();
    if (run == 0) first = out;
    outcome.same &= std::memcmp(first.data(), out.data(), out.size() * 2) == 0;
  }
  int64_t support = 0;
  for (const Slice& s : c.host_slices) {
    if (!IsDecodeSlice(s)) continue;
    for (int t = 0; t < s.num_tokens; t++) {
      for (int h = 0; h < c.spec.num_heads; h++) {
        const size_t row = size_t(s.first_row + t) * c.spec.num_heads + h;
        double error = 0, norm = 0;
        for (int d = 0; d < c.spec.head_dim; d++) {
          const double want = reference.out[row * c.spec.head_dim + d];
          const double got = __bfloat162float(first[row * c.spec.head_dim + d]);
          error += (got - want) * (got - want);
          norm += want * want;
        }
        const double relative = std::sqrt(error / norm);
        if (!(relative <= outcome.worst)) outcome.worst = relative;
        support += reference.support[row];
      }
    }
  }
  for (const AttentionStats& s : c.stats.Get()) {
    outcome.stats.rows += s.rows;
    outcome.stats.support += s.support;
    outcome.stats.wide_rows += s.wide_rows;
    outcome.stats.tau_iterations += s.tau_iterations;
    outcome.stats.unconverged_rows += s.unconverged_rows;
    outcome.stats.pages_considered += s.pages_considered;
    outcome.stats.pages_read += s.pages_read;
    outcome.stats.keys_considered += s.keys_considered;
    outcome.stats.keys_scored += s.keys_scored;
    outcome.stats.kv_bytes_read += s.kv_bytes_read;
    outcome.stats.blocks_considered += s.blocks_considered;
    outcome.stats.blocks_attended += s.blocks_attended;
  }
  outcome.support_off = outcome.stats.support - support;
  return outcome;
}

int failures = 0;

void Check(const CaseSpec& spec) {
  Case c(spec);
  const Reference reference = ComputeReference(c);
  for (const bool shadow : {false, true}) {
    const Outcome o = RunCase(c, reference, shadow);
    const bool ok = o.worst <= kTolerance && o.same && o.stats.unconverged_rows == 0;
    failures += !ok;
    std::printf(
        "%s %-34s %s err %.1e same %d support %+ld of %ld wide %ld iter %.2f pages %ld/%ld "
        "attended %ld/%ld unconverged %ld\n",
        ok ? "ok  " : "FAIL", spec.name.c_str(), shadow ? "int8" : "bf16", o.worst, o.same,
        o.support_off, o.stats.support, o.stats.wide_rows,
        double(o.stats.tau_iterations) / std::max<int64_t>(1, o.stats.rows), o.stats.pages_read,
        o.stats.pages_considered, o.stats.blocks_attended, o.stats.blocks_considered,
        o.stats.unconverged_rows);
    std::fflush(stdout);
  }
}

std::vector<CaseSpec> SmallCases() {
  return {
      {.name = "small", .context = {0, 1, 63, 64, 300}},
      {.name = "small d64 softmax+entmax",
       .head_dim = 64,
       .num_heads = 8,
       .num_kv_heads = 2,
       .context = {700, 2},
       .alpha = {1.5f, 1, 2, 1.3f},
       .query_scale = true},
      {.name = "small equal",
       .head_dim = 96,
       .num_heads = 4,
       .num_kv_heads = 2,
       .context = {1500},
       .keys = Keys::kEqual},
      {.name = "small wide",
       .num_heads = 4,
       .num_kv_heads = 1,
       .context = {7000, 30},
       .keys = Keys::kEqual},
      {.name = "small alibi",
       .head_dim = 256,
       .num_heads = 8,
       .num_kv_heads = 4,
       .context = {2000},
       .slope = {0.5f, 0.25f},
       .key_norms = true},
  };
}

std::vector<CaseSpec> Cases() {
  std::vector<CaseSpec> cases = SmallCases();
  for (const int d : {64, 96, 128, 256}) {
    for (const float alpha : {1.5f, 2.0f, 1.25f, 1.0f}) {
      cases.push_back({.name = "d" + std::to_string(d) + " alpha " + std::to_string(alpha),
                       .head_dim = d,
                       .num_heads = 8,
                       .num_kv_heads = 2,
                       .context = {5000, 777},
                       .alpha = {alpha}});
    }
  }
  for (const int group : {1, 2, 3, 8, 12, 16}) {
    cases.push_back({.name = "group " + std::to_string(group),
                     .num_heads = 2 * group,
                     .num_kv_heads = 2,
                     .context = {3333, 100},
                     .query_scale = true});
  }
  for (const float sigma : {0.1f, 0.5f, 1.0f, 4.0f, 1e4f}) {
    cases.push_back({.name = "sigma " + std::to_string(sigma), .context = {20000}, .sigma = sigma});
  }
  const std::pair<const char*, Keys> kinds[] = {{"equal", Keys::kEqual},
                                                {"one huge", Keys::kOneHuge},
                                                {"ties", Keys::kTies},
                                                {"denormal", Keys::kDenormal},
                                                {"peaked", Keys::kPeaked}};
  for (const auto& [name, kind] : kinds) {
    for (const float alpha : {1.5f, 2.0f, 1.1f}) {
      cases.push_back({.name = std::string(name) + " alpha " + std::to_string(alpha),
                       .context = {9000, 40},
                       .alpha = {alpha},
                       .keys = kind});
    }
  }
  cases.push_back({.name = "window 1000", .context = {50000, 3}, .sliding_window = 1000});
  cases.push_back(
      {.name = "window 70 mixed", .context = {5000}, .alpha = {1.5f, 1}, .sliding_window = 70});
  cases.push_back({.name = "alibi linear",
                   .context = {60000, 500},
                   .slope = {1, 0.5f, 1 / 3.0f, 0.25f},
                   .key_norms = true});
  cases.push_back({.name = "alibi half the heads",
                   .context = {30000},
                   .slope = {0.5f, 0, 0.03f, 0},
                   .key_norms = true});
  cases.push_back({.name = "alibi without norms", .context = {30000}, .slope = {0.5f, 0.01f}});
  cases.push_back(
      {.name = "not causal", .context = {2000}, .tokens = {3}, .slope = {0.5f}, .causal = false});
  cases.push_back({.name = "up to 4 tokens", .context = {4000, 0, 62}, .tokens = {4, 3, 2}});
  cases.push_back(
      {.name = "prefill slices between", .context = {500, 0, 900}, .tokens = {1, 100, 1}});
  CaseSpec many{.name = "200 sequences", .num_heads = 16, .num_kv_heads = 4, .context = {}};
  for (int i = 0; i < 200; i++) many.context.push_back((i * 7919) % 3000);
  cases.push_back(many);
  many.name = "200 sequences, wide and narrow";
  many.sigma = 0.2f;
  cases.push_back(many);
  many.name = "200 sequences, kinds mixed";
  many.alpha = {1, 1.5f, 2, 1.2f};
  cases.push_back(many);
  cases.push_back({.name = "128k", .context = {131071}});
  cases.push_back({.name = "128k equal", .context = {131071}, .keys = Keys::kEqual});
  cases.push_back({.name = "128k softmax", .context = {131071}, .alpha = {1}});
  cases.push_back({.name = "1M", .context = {1048575}});
  return cases;
}

// Median of graph replays in microseconds.
double TimeCase(Case& c) {
  c.args.stats = nullptr;
  const double us = MedianReplay(
      [&](cudaStream_t stream) {
        c.args.stream = stream;
        c.Run();
      },
      5, 30);
  c.args.stream = nullptr;
  return us;
}

void Time(const CaseSpec& spec) {
  Case c(spec);
  for (const bool shadow : {false, true}) {
    if (shadow && spec.alpha[0] == 1) continue;
    c.Plan(shadow);
    const double us = TimeCase(c);
    std::printf(
        "{\"kind\": \"decode\", \"name\": \"%s\", \"batch\": %zu, \"tokens\": %d, \"sigma\": %.2f, "
        "\"alpha\": %.2f, \"keys\": \"%s\", \"us\": %.2f}\n",
        spec.name.c_str(), spec.context.size(), spec.context[0] + 1, spec.sigma, spec.alpha[0],
        shadow ? "int8" : "bf16", us);
    std::fflush(stdout);
  }
}

// Brings the clocks up.
void WarmUp() {
  Case c({.name = "warm-up", .context = {131071}});
  c.Plan(false);
  for (int i = 0; i < 4000; i++) c.Run();
  REQUIRE_CUDA(cudaDeviceSynchronize());
}

void TimeAll(bool million) {
  WarmUp();
  for (const int batch : {1, 16}) {
    for (const int tokens : {8192, 32768, 131072, 1048576}) {
      if (tokens > 131072 && (batch > 1 || !million)) continue;
      for (const float sigma : {2.0f, 1.0f, 4.0f}) {
        if (sigma != 2 && (batch > 1 || tokens > 131072)) continue;
        CaseSpec spec{.name = "normal", .context = std::vector<int>(batch, tokens - 1)};
        spec.sigma = sigma;
        Time(spec);
      }
    }
  }
  for (const int tokens : {8192, 32768, 131072}) {
    Time({.name = "softmax", .context = {tokens - 1}, .alpha = {1}});
    Time({.name = "equal", .context = {tokens - 1}, .keys = Keys::kEqual});
  }
  Time({.name = "softmax", .context = std::vector<int>(16, 32767), .alpha = {1}});
  Time({.name = "equal", .context = std::vector<int>(16, 8191), .keys = Keys::kEqual});
  Time({.name = "flat", .context = {32767}, .sigma = 0.5f});
  Time({.name = "alpha 1.25", .context = {32767}, .alpha = {1.25f}});
  Time({.name = "alibi",
        .context = {131071},
        .slope = {1, 0.5f, 1 / 3.0f, 0.25f},
        .key_norms = true});
  Time({.name = "64 short", .context = std::vector<int>(64, 1023)});
}

}  // namespace
}  // namespace tauserve::cuda

int main(int argc, char** argv) {
  using namespace tauserve::cuda;
  const std::string mode = argc > 1 ? argv[1] : "check";
  if (mode == "time") {
    TimeAll(argc > 2 && std::atoi(argv[2]) == 1);
    return 0;
  }
  for (const CaseSpec& spec : mode == "small" ? SmallCases() : Cases()) {
    if (argc > 2 && spec.name.find(argv[2]) == std::string::npos) continue;
    Check(spec);
  }
  std::printf("%s\n", failures ? "FAILED" : "all passed");
  return failures != 0;
}
