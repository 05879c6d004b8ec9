#include "kernels/cuda/step_graphs.h"

#include "kernels/cuda/cuda_check.h"

namespace tauserve::cuda {

bool StepGraphs::Run(cudaStream_t stream) {
  defer_ = false;
  if (operations_.empty()) return true;
  bool ok = true;
  const auto known = graphs_.find(signature_.value());
  if (known == graphs_.end()) {
    if (graphs_.size() == kMaxGraphs) Forget();
    // First, so that memory that moves by the operations' own doing takes the entry with it.
    graphs_.emplace(signature_.value(), nullptr);
    for (const auto& operation : operations_) operation();
  } else {
    if (known->second == nullptr) ok = Capture(stream, &known->second);
    ok = ok && CUDA_CHECK(cudaGraphLaunch(known->second, stream));
  }
  operations_.clear();
  signature_ = Signature();
  return ok;
}

// The operations have run before, so nothing allocates here.
bool StepGraphs::Capture(cudaStream_t stream, cudaGraphExec_t* graph) {
  cudaGraph_t captured = nullptr;
  if (!CUDA_CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal))) return false;
  for (const auto& operation : operations_) operation();
  bool ok = CUDA_CHECK(cudaStreamEndCapture(stream, &captured));
  ok = ok && CUDA_CHECK(cudaGraphInstantiate(graph, captured, 0));
  if (captured != nullptr) CUDA_CHECK(cudaGraphDestroy(captured));
  return ok;
}

void StepGraphs::Forget() {
  for (const auto& [signature, graph] : graphs_) {
    if (graph != nullptr) CUDA_CHECK(cudaGraphExecDestroy(graph));
  }
  graphs_.clear();
}

}  // namespace tauserve::cuda
