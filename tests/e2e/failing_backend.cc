// Stands in for the CUDA backend's library: the plain backend of the tests, which fails in its fourth step as a GPU does
// that falls off the bus.
#include <memory>
#include <utility>

#include "kernels/cuda/cuda_plugin.h"
#include "tests/server/model/plain_backend.h"

namespace tauserve {
namespace {

class FailingBackend : public PlainBackend {
 public:
  absl::Status Synchronize() override {
    if (++steps_ < 4) return PlainBackend::Synchronize();
    return absl::InternalError("cuda: the device has fallen off the bus");
  }

 private:
  int steps_ = 0;
};

}  // namespace
}  // namespace tauserve

extern "C" __attribute__((visibility("default"))) void tauserve_create_cuda_backend(
    const tauserve::BackendOptions&, absl::StatusOr<std::unique_ptr<tauserve::Backend>>* backend) {
  *backend = std::make_unique<tauserve::FailingBackend>();
}
