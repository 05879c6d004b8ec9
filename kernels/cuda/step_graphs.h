// Steps as CUDA graphs. The operations of a step that is worth it (decoding: many small kernels) are not launched but
// kept, each with a signature of all that its launches depend on. At the end of the step they run together: the first
// time launched one by one, the second time captured, from then on as one launch of the graph of that signature. What
// differs between such steps, tokens and page tables, lies in memory that is the same for all.
#ifndef TAUSERVE_KERNELS_CUDA_STEP_GRAPHS_H_
#define TAUSERVE_KERNELS_CUDA_STEP_GRAPHS_H_

#include <cuda_runtime.h>

#include <cstdint>
#include <functional>
#include <map>
#include <type_traits>
#include <utility>
#include <vector>

#include "kernels/tensor.h"

namespace tauserve::cuda {

// Mixes values into a number; equal sequences of values give equal numbers.
class Signature {
 public:
  template <typename T>
  Signature& Add(const T& value) {
    static_assert(std::is_arithmetic_v<T> || std::is_pointer_v<T> || std::is_enum_v<T>);
    uint64_t bits = 0;
    __builtin_memcpy(&bits, &value, sizeof(value));
    value_ = (value_ ^ bits) * 0x9e3779b97f4a7c15;
    value_ ^= value_ >> 29;
    return *this;
  }
  Signature& Add(const Matrix& m) { return Add(m.data).Add(m.rows).Add(m.cols).Add(m.stride); }
  uint64_t value() const { return value_; }

 private:
  uint64_t value_ = 0x243f6a8885a308d3;
};

class StepGraphs {
 public:
  StepGraphs() = default;
  ~StepGraphs() { Forget(); }
  StepGraphs(const StepGraphs&) = delete;
  StepGraphs& operator=(const StepGraphs&) = delete;

  // From now on operations are kept (`defer`), or run at once.
  void Begin(bool defer) { defer_ = defer; }
  bool defers() const { return defer_; }
  // Runs or keeps an operation. Whatever it points to must live until Run.
  template <typename Operation>
  void Do(const Signature& signature, Operation&& operation) {
    if (!defer_) return operation();
    signature_.Add(signature.value());
    operations_.emplace_back(std::forward<Operation>(operation));
  }
  // Runs what was kept. False if the GPU refused.
  bool Run(cudaStream_t stream);
  // Memory that graphs point to has moved: they are made again.
  void Forget();

 private:
  static constexpr size_t kMaxGraphs = 256;
  bool Capture(cudaStream_t stream, cudaGraphExec_t* graph);

  bool defer_ = false;
  Signature signature_;
  std::vector<std::function<void()>> operations_;
  std::map<uint64_t, cudaGraphExec_t> graphs_;  // nullptr: seen once
};

}  // namespace tauserve::cuda

#endif  // TAUSERVE_KERNELS_CUDA_STEP_GRAPHS_H_
