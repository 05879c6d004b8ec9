// Linear layers by oneDNN. The product is cut into tiles of rows and slices of columns, each one single-threaded oneDNN
// matmul, so that our thread pool is the only one and the same weights serve prefill and decode.
#ifndef TAUSERVE_KERNELS_CPU_LINEAR_H_
#define TAUSERVE_KERNELS_CPU_LINEAR_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/types/span.h"
#include "kernels/backend.h"
#include "kernels/cpu/kernels.h"
#include "kernels/cpu/thread_pool.h"

namespace tauserve::cpu {

class LinearEngine {
 public:
  // `compute_type`: float32 or bfloat16, of both operands; sums and results are float32.
  LinearEngine(DataType compute_type, const Kernels* kernels, ThreadPool* pool);
  ~LinearEngine();

  std::unique_ptr<LinearWeight> Load(absl::Span<const HostTensor> weights,
                                     absl::Span<const HostTensor> biases);

  // out = in * weight^T + bias, or out += that.
  void Run(const LinearWeight& weight, Matrix in, Matrix out, bool add);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace tauserve::cpu

#endif  // TAUSERVE_KERNELS_CPU_LINEAR_H_
