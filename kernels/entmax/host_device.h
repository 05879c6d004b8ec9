// Marks inline functions that CUDA kernels share with the host.
#ifndef TAUSERVE_KERNELS_ENTMAX_HOST_DEVICE_H_
#define TAUSERVE_KERNELS_ENTMAX_HOST_DEVICE_H_

#ifdef __CUDACC__
#define TAUSERVE_HOST_DEVICE __host__ __device__
#else
#define TAUSERVE_HOST_DEVICE
#endif

#endif  // TAUSERVE_KERNELS_ENTMAX_HOST_DEVICE_H_
