// What launches need to know of the GPU.
#ifndef TAUSERVE_KERNELS_CUDA_CURRENT_DEVICE_H_
#define TAUSERVE_KERNELS_CUDA_CURRENT_DEVICE_H_

#include "kernels/cuda/cuda_check.h"

namespace tauserve::cuda {

struct Device {
  int multiprocessors = 0;
  bool hopper = false;
};
inline const Device& CurrentDevice() {
  static const Device device = [] {
    Device d;
    int id = 0, major = 0, minor = 0;
    CUDA_CHECK(cudaGetDevice(&id));
    CUDA_CHECK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, id));
    CUDA_CHECK(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, id));
    CUDA_CHECK(cudaDeviceGetAttribute(&d.multiprocessors, cudaDevAttrMultiProcessorCount, id));
    d.hopper = major == 9 && minor == 0;
    return d;
  }();
  return device;
}

}  // namespace tauserve::cuda

#endif  // TAUSERVE_KERNELS_CUDA_CURRENT_DEVICE_H_
