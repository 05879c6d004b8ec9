// Errors of attention against the double-precision oracle, for each instruction set of the machine, as a Markdown table:
// the largest ||out - ref|| / ||ref|| of a row, both from the same (rounded) inputs. Fresh random inputs each run, unless
// TAUSERVE_SEED names one.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "tests/kernels/attention_case.h"
#include "tests/kernels/test_device.h"

namespace tauserve {
namespace {

struct Path {
  const char* name;
  AttentionCase attention_case;
};

AttentionCase Case(float alpha, float sigma, std::vector<int> steps) {
  AttentionCase c;
  c.num_heads = 2;
  c.num_kv_heads = 1;
  c.alpha = {alpha};
  c.sigma = sigma;
  c.first_checked = std::max(0, steps[0] - 200);
  c.steps = {std::move(steps)};
  return c;
}

std::vector<Path> Paths() {
  std::vector<Path> paths = {
      {"entmax-1.5, small supports (gather)", Case(1.5f, 2, {4096})},
      {"entmax-1.5, wide supports (columns)", Case(1.5f, 0.3f, {3000})},
      {"entmax-1.5, equal scores (dense rows)", Case(1.5f, 0, {5000})},
      {"entmax-1.25", Case(1.25f, 2, {4096})},
      {"entmax-2 (sparsemax)", Case(2, 2, {4096})},
      {"entmax-1.5, ALiBi", Case(1.5f, 2, {4096})},
      {"entmax-1.5, decoding", Case(1.5f, 2, {4096, 1, 1, 1, 1})},
      {"softmax", Case(1, 2, {4096})},
      {"softmax, decoding", Case(1, 2, {4096, 1, 1, 1, 1})},
  };
  paths[5].attention_case.slope = {0.25f, 0.01f};
  for (int decoding : {6, 8}) paths[decoding].attention_case.first_checked = 4096;
  return paths;
}

int Main() {
  const char* given = std::getenv("TAUSERVE_SEED");
  const uint32_t seed = given ? std::strtoul(given, nullptr, 10) : std::random_device()();
  const std::vector<std::string> isas = TestTargets();
  std::printf("seed %u\n\n| |", seed);
  for (const std::string& isa : isas) std::printf(" %s |", isa.c_str());
  std::printf("\n|---|");
  for (size_t i = 0; i < isas.size(); i++) std::printf("---|");
  for (DataType type : {DataType::kFloat32, DataType::kBFloat16}) {
    for (const Path& path : Paths()) {
      std::printf("\n| %s, %s |", path.name, NameOf(type));
      for (const std::string& isa : isas) {
        auto backend = MakeTestBackend(isa, type);
        std::printf(" %.1e |", RunCase(*backend, path.attention_case, type, seed).worst_error);
        std::fflush(stdout);
      }
    }
  }
  std::printf("\n");
  return 0;
}

}  // namespace
}  // namespace tauserve

int main() { return tauserve::Main(); }
