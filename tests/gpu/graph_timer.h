// How long launches take as a CUDA graph.
#ifndef TAUSERVE_TESTS_GPU_GRAPH_TIMER_H_
#define TAUSERVE_TESTS_GPU_GRAPH_TIMER_H_

#include <algorithm>
#include <vector>

#include "tests/gpu/device_memory.h"

namespace tauserve::cuda {

// Microseconds: the median of `replays` of what `launch(stream)` launches, behind `warm_up` others.
template <typename Launch>
double MedianReplay(const Launch& launch, int warm_up, int replays) {
  cudaStream_t stream;
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  REQUIRE_CUDA(cudaDeviceSynchronize());
  REQUIRE_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  launch(stream);
  REQUIRE_CUDA(cudaStreamSynchronize(stream));
  REQUIRE_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  launch(stream);
  REQUIRE_CUDA(cudaStreamEndCapture(stream, &graph));
  REQUIRE_CUDA(cudaGraphInstantiate(&exec, graph, 0));
  cudaEvent_t begin, end;
  REQUIRE_CUDA(cudaEventCreate(&begin));
  REQUIRE_CUDA(cudaEventCreate(&end));
  std::vector<float> times;
  for (int i = 0; i < warm_up + replays; i++) {
    REQUIRE_CUDA(cudaEventRecord(begin, stream));
    REQUIRE_CUDA(cudaGraphLaunch(exec, stream));
    REQUIRE_CUDA(cudaEventRecord(end, stream));
    REQUIRE_CUDA(cudaEventSynchronize(end));
    float ms = 0;
    REQUIRE_CUDA(cudaEventElapsedTime(&ms, begin, end));
    if (i >= warm_up) times.push_back(ms * 1e3f);
  }
  std::sort(times.begin(), times.end());
  cudaGraphExecDestroy(exec);
  cudaGraphDestroy(graph);
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  cudaStreamDestroy(stream);
  return times[times.size() / 2];
}

}  // namespace tauserve::cuda

#endif  // TAUSERVE_TESTS_GPU_GRAPH_TIMER_H_
