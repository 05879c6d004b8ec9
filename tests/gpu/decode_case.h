// Cases of decode attention in device memory: a paged cache of random or adversarial keys with its int8 shadow, and a
// double-precision reference on the device.
#ifndef TAUSERVE_TESTS_GPU_DECODE_CASE_H_
#define TAUSERVE_TESTS_GPU_DECODE_CASE_H_

#include <cuda_runtime.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "kernels/cuda/decode.h"

#define REQUIRE_CUDA(call)                                                       \
  do {                                                                           \
    const cudaError_t error = (call);                                            \
    if (error != cudaSuccess) {                                                  \
      std::printf("%s:%d: %s\n", __FILE__, __LINE__, cudaGetErrorString(error)); \
      std::exit(2);                                                              \
    }                                                                            \
  } while (false)

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

// Device memory, freed with its owner.
template <typename T>
class DeviceArray {
 public:
  DeviceArray() = default;
  explicit DeviceArray(size_t n) : size_(n) {
    REQUIRE_CUDA(cudaMalloc(&data_, sizeof(T) * (n ? n : 1)));
  }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray(DeviceArray&& other) noexcept { *this = std::move(other); }
  DeviceArray& operator=(DeviceArray&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~DeviceArray() { cudaFree(data_); }

  T* get() const { return data_; }
  size_t size() const { return size_; }
  void Set(const std::vector<T>& from) {
    REQUIRE_CUDA(cudaMemcpy(data_, from.data(), sizeof(T) * from.size(), cudaMemcpyHostToDevice));
  }
  std::vector<T> Get() const {
    std::vector<T> to(size_);
    REQUIRE_CUDA(cudaMemcpy(to.data(), data_, sizeof(T) * size_, cudaMemcpyDeviceToHost));
    return to;
  }

 private:
  T* data_ = nullptr;
  size_t size_ = 0;
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
