#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/backend.h"
#include "kernels/cpu/cpu_backend.h"

namespace tauserve {

std::vector<std::string> CompiledDevices() { return {"cpu"}; }

absl::StatusOr<std::unique_ptr<Backend>> CreateBackend(const BackendOptions& options) {
  if (options.device == "cpu" || options.device == "auto") return cpu::CreateCpuBackend(options);
  if (options.device == "cuda") {
    return absl::FailedPreconditionError(
        absl::StrCat("device cuda is not built into this binary; it has ",
                     absl::StrJoin(CompiledDevices(), ", ")));
  }
  return absl::InvalidArgumentError(
      absl::StrCat("unknown device '", options.device, "': choose auto, cpu or cuda"));
}

}  // namespace tauserve
