// Host tensors of any type as floats.
#ifndef TAUSERVE_KERNELS_HOST_FLOATS_H_
#define TAUSERVE_KERNELS_HOST_FLOATS_H_

#include <cstdint>
#include <cstring>
#include <vector>

#include "kernels/half.h"
#include "kernels/tensor.h"

namespace tauserve {

// Element i of an array, which may be unaligned.
inline float ElementAsFloat(const void* data, DataType type, int64_t i) {
  const char* bytes = static_cast<const char*>(data);
  if (type == DataType::kFloat32) {
    float f;
    std::memcpy(&f, bytes + 4 * i, 4);
    return f;
  }
  uint16_t h;
  std::memcpy(&h, bytes + 2 * i, 2);
  return type == DataType::kBFloat16 ? BFloat16ToFloat(h) : Float16ToFloat(h);
}

inline std::vector<float> ToFloats(const HostTensor& tensor) {
  std::vector<float> values(tensor.size());
  for (size_t i = 0; i < values.size(); i++) {
    values[i] = ElementAsFloat(tensor.data, tensor.type, i);
  }
  return values;
}

}  // namespace tauserve

#endif  // TAUSERVE_KERNELS_HOST_FLOATS_H_
