// Random numbers of the checks of single kernels.
#ifndef TAUSERVE_TESTS_GPU_NORMAL_H_
#define TAUSERVE_TESTS_GPU_NORMAL_H_

#include <cstdint>

namespace tauserve::cuda {

// A normal number, the same for a place and a seed.
inline __device__ float Normal(uint64_t i, uint64_t seed) {
  uint64_t z = (i + 1) * 0x9E3779B97F4A7C15ull + seed * 0xD1B54A32D192ED03ull;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
  z ^= z >> 31;
  const float u = (static_cast<uint32_t>(z >> 40) + 0.5f) / 16777216;
  const float w = (static_cast<uint32_t>(z & 0xffffff) + 0.5f) / 16777216;
  return sqrtf(-2 * logf(u)) * cospif(2 * w);
}

}  // namespace tauserve::cuda

#endif  // TAUSERVE_TESTS_GPU_NORMAL_H_
