// Zeroed memory that takes real pages only where it is touched.
#ifndef TAUSERVE_KERNELS_CPU_MAPPING_H_
#define TAUSERVE_KERNELS_CPU_MAPPING_H_

#include <cstddef>
#include <cstdint>

#include "absl/status/statusor.h"

namespace tauserve::cpu {

class Mapping {
 public:
  // ResourceExhausted if the address space can't be had.
  static absl::StatusOr<Mapping> Create(size_t bytes);

  Mapping() = default;
  ~Mapping();
  Mapping(Mapping&& other) noexcept;
  Mapping& operator=(Mapping&& other) noexcept;

  void* data() const { return data_; }

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

// Bytes that processes can still get, from the operating system's own estimate; 0 if it can't be read.
int64_t AvailableHostMemory();

}  // namespace tauserve::cpu

#endif  // TAUSERVE_KERNELS_CPU_MAPPING_H_
