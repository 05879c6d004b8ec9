// Conversions between float32 and the 16-bit formats, round to nearest even.
#ifndef TAUSERVE_KERNELS_HALF_H_
#define TAUSERVE_KERNELS_HALF_H_

#include <cstdint>
#include <cstring>

namespace tauserve {

inline float BFloat16ToFloat(uint16_t h) {
  const uint32_t bits = uint32_t{h} << 16;
  float f;
  std::memcpy(&f, &bits, 4);
  return f;
}

inline uint16_t FloatToBFloat16(float f) {
  uint32_t bits;
  std::memcpy(&bits, &f, 4);
  if ((bits & 0x7fffffff) > 0x7f800000) return (bits >> 16) | 0x40;  // NaN stays NaN
  return (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
}

inline float Float16ToFloat(uint16_t h) {
  const uint32_t sign = uint32_t{h & 0x8000u} << 16;
  const uint32_t exponent = (h >> 10) & 31;
  const uint32_t mantissa = h & 0x3ff;
  float f;
  if (exponent == 0) {  // zero or subnormal: mantissa * 2^-24
    f = static_cast<float>(mantissa) * 5.9604644775390625e-8f;
    return sign ? -f : f;
  }
  const uint32_t bits =
      sign | (exponent == 31 ? 0x7f800000 : (exponent + 112) << 23) | (mantissa << 13);
  std::memcpy(&f, &bits, 4);
  return f;
}

}  // namespace tauserve

#endif  // TAUSERVE_KERNELS_HALF_H_
