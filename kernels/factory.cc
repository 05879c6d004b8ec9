#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/backend.h"
#include "kernels/cpu/cpu_backend.h"
#ifdef TAUSERVE_CUDA
#include <dlfcn.h>
#include <unistd.h>

#include "kernels/cuda/cuda_plugin.h"
#endif

namespace tauserve {
namespace {

#ifdef TAUSERVE_CUDA

std::string PluginPath() {
  char path[4096];
  const ssize_t n = readlink("/proc/self/exe", path, sizeof(path));
  const std::string self(path, n > 0 ? n : 0);
  return self.substr(0, self.rfind('/') + 1) + cuda::kPluginFile;
}

// Sooner known than by loading the backend, which needs large libraries.
bool HasCudaDriver() { return dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL) != nullptr; }

// The library stays loaded as long as the process.
absl::StatusOr<std::unique_ptr<Backend>> CreateCudaBackend(const BackendOptions& options) {
  void* plugin = dlopen(PluginPath().c_str(), RTLD_NOW | RTLD_LOCAL);
  void* symbol = plugin != nullptr ? dlsym(plugin, cuda::kPluginSymbol) : nullptr;
  if (symbol == nullptr) {
    return absl::FailedPreconditionError(absl::StrCat("device cuda: ", dlerror()));
  }
  absl::StatusOr<std::unique_ptr<Backend>> backend;
  reinterpret_cast<cuda::CreateFunction*>(symbol)(options, &backend);
  return backend;
}

#else

bool HasCudaDriver() { return false; }

absl::StatusOr<std::unique_ptr<Backend>> CreateCudaBackend(const BackendOptions&) {
  return absl::FailedPreconditionError(
      absl::StrCat("device cuda is not built into this binary; it has ",
                   absl::StrJoin(CompiledDevices(), ", ")));
}

#endif

}  // namespace

std::vector<std::string> CompiledDevices() {
#ifdef TAUSERVE_CUDA
  return {"cpu", "cuda"};
#else
  return {"cpu"};
#endif
}

absl::StatusOr<std::unique_ptr<Backend>> CreateBackend(const BackendOptions& options,
                                                       absl::Status* gpu_refused) {
  if (options.device == "cpu") return cpu::CreateCpuBackend(options);
  if (options.device == "cuda") return CreateCudaBackend(options);
  if (options.device != "auto") {
    return absl::InvalidArgumentError(
        absl::StrCat("unknown device '", options.device, "': choose auto, cpu or cuda"));
  }
  if (HasCudaDriver()) {
    absl::StatusOr<std::unique_ptr<Backend>> backend = CreateCudaBackend(options);
    if (backend.ok()) return backend;
    // No GPU that can be used, or not with these types: then the CPU.
    if (gpu_refused != nullptr) *gpu_refused = backend.status();
  }
  return cpu::CreateCpuBackend(options);
}

}  // namespace tauserve
