// What the library of the CUDA backend exports. It is built with the programs that load it, by the same compiler, so
// C++ objects may pass.
#ifndef TAUSERVE_KERNELS_CUDA_CUDA_PLUGIN_H_
#define TAUSERVE_KERNELS_CUDA_CUDA_PLUGIN_H_

#include <memory>

#include "absl/status/statusor.h"
#include "kernels/backend.h"

namespace tauserve::cuda {

inline constexpr char kPluginFile[] = "libtauserve_cuda.so";  // beside the executable
inline constexpr char kPluginSymbol[] = "tauserve_create_cuda_backend";

// FailedPrecondition where there is no GPU or driver that it can run on; InvalidArgument for types it does not have.
using CreateFunction = void(const BackendOptions& options,
                            absl::StatusOr<std::unique_ptr<Backend>>* backend);

}  // namespace tauserve::cuda

#endif  // TAUSERVE_KERNELS_CUDA_CUDA_PLUGIN_H_
