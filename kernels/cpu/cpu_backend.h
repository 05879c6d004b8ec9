// The CPU backend: our attention kernels, oneDNN's matrix products, one thread pool for both. Operations have ended when
// they return.
#ifndef TAUSERVE_KERNELS_CPU_CPU_BACKEND_H_
#define TAUSERVE_KERNELS_CPU_CPU_BACKEND_H_

#include <memory>

#include "absl/status/statusor.h"
#include "kernels/backend.h"

namespace tauserve::cpu {

absl::StatusOr<std::unique_ptr<Backend>> CreateCpuBackend(const BackendOptions& options);

}  // namespace tauserve::cpu

#endif  // TAUSERVE_KERNELS_CPU_CPU_BACKEND_H_
