// Cases of decode attention in device memory: a paged cache of random or adversarial keys with its int8 shadow, and a
// double-precision reference on the device.
#ifndef TAUSERVE_TESTS_GPU_DECODE_CASE_H_
#define TAUSERVE_TESTS_GPU_DECODE_CASE_H_

#include <cuda_runtime.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kernels/cuda/decode.h"
#include "tests/gpu/device_memory.h"

namespace tauserve::cuda {

enum class Keys {
  kNormal,
  kEqual,     // every key the same: support = n
  kOneHuge,   // one key far above the others
  kTies,      // seven distinct keys: ties everywhere, at the threshold too
  kDenormal,  // of 1e-39
  kPeaked,    // every 64th key is a hundred times longer
};

struct CaseSpec {
  std::string name;
  int head_dim = 128;
  int num_heads = 32;
  int num_kv_heads = 8;
  std::vector<int> context = {1000};  // tokens before the step's, a sequence
  std::vector<int> tokens = {};       // of the step; empty = 1 each
  std::vector<float> alpha = {1.5f};  // of heads, repeated
  std::vector<float> slope = {0};
  int sliding_window = 0;
  bool causal = true;
  bool query_scale = false;
  bool key_norms = false;
  float sigma = 2;  // standard deviation of the logits
  Keys keys = Keys::kNormal;
  uint64_t seed = 1;
};

// The memory of a case; `args` points into it.
struct Case {
  explicit Case(const CaseSpec& spec);

  CaseSpec spec;
  AttentionArgs args;
  std::vector<Slice> host_slices;
  std::vector<Head> host_heads;
  DeviceArray<__nv_bfloat16> q, out, keys, values;
  DeviceArray<int8_t> shadow;
  DeviceArray<ShadowScale> shadow_scale;
  DeviceArray<float> page_key_norms, query_scale;
  DeviceArray<int32_t> page_table;
  DeviceArray<Slice> slices;
  DeviceArray<Head> heads;
  DeviceArray<AttentionStats> stats;
  DeviceArray<char> workspace, device_plan;

  // Plans and gets workspace; then Run() launches.
  void Plan(bool shadow);
  void Run();
  DecodePlan plan;
};

// The same rows in double precision: out [rows][num_heads * head_dim], support [rows][num_heads].
struct Reference {
  std::vector<double> out;
  std::vector<int> support;
};
Reference ComputeReference(const Case& c);

}  // namespace tauserve::cuda

#endif  // TAUSERVE_TESTS_GPU_DECODE_CASE_H_
