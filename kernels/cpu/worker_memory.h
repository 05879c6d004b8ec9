// Owns the memory of a worker's Workspace. Most of it is touched only by unusual rows, and takes no real pages before.
#ifndef TAUSERVE_KERNELS_CPU_WORKER_MEMORY_H_
#define TAUSERVE_KERNELS_CPU_WORKER_MEMORY_H_

#include <cstdint>
#include <vector>

#include "kernels/cpu/attention_task.h"
#include "kernels/cpu/mapping.h"

namespace tauserve::cpu {

class WorkerMemory {
 public:
  // For sequences of up to `max_keys` tokens, a multiple of kPageTokens. Ends the process if there is no address space.
  WorkerMemory(int head_dim, int64_t max_keys);

  Workspace& workspace() { return w_; }
  std::vector<AttentionStats> stats;  // [slices of the step]

 private:
  void* Bytes(int64_t n);
  float* Floats(int64_t n) { return static_cast<float*>(Bytes(n * 4)); }
  int32_t* Ints(int64_t n) { return static_cast<int32_t*>(Bytes(n * 4)); }
  uint64_t* Words(int64_t n) { return static_cast<uint64_t*>(Bytes(n * 8)); }

  Workspace w_;
  std::vector<Mapping> mappings_;
};

}  // namespace tauserve::cpu

#endif  // TAUSERVE_KERNELS_CPU_WORKER_MEMORY_H_
