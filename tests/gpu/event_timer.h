// How long launches take on the default stream, by CUDA's events.
#ifndef TAUSERVE_TESTS_GPU_EVENT_TIMER_H_
#define TAUSERVE_TESTS_GPU_EVENT_TIMER_H_

#include <algorithm>
#include <vector>

#include "tests/gpu/device_memory.h"

namespace tauserve::cuda {

// Milliseconds: the median of `runs` runs behind one that is not counted.
template <typename Run>
float MedianMilliseconds(int runs, const Run& run) {
  cudaEvent_t begin, end;
  REQUIRE_CUDA(cudaEventCreate(&begin));
  REQUIRE_CUDA(cudaEventCreate(&end));
  std::vector<float> times;
  run();
  for (int i = 0; i < runs; i++) {
    REQUIRE_CUDA(cudaEventRecord(begin));
    run();
    REQUIRE_CUDA(cudaEventRecord(end));
    REQUIRE_CUDA(cudaEventSynchronize(end));
    float ms;
    REQUIRE_CUDA(cudaEventElapsedTime(&ms, begin, end));
    times.push_back(ms);
  }
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

}  // namespace tauserve::cuda

#endif  // TAUSERVE_TESTS_GPU_EVENT_TIMER_H_
