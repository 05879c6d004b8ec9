// The instruction sets that the CPU kernels are compiled for, and the choice among them.
#ifndef TAUSERVE_KERNELS_CPU_ISA_H_
#define TAUSERVE_KERNELS_CPU_ISA_H_

#include <vector>

#include "absl/status/statusor.h"

namespace tauserve::cpu {

// Each includes those before it. kPortable is plain C++ with the compiler's vectors, for any machine; kAvx512Vnni adds
// products of bytes, kAvx512Bf16 those of bfloat16.
enum class Isa { kPortable, kAvx2, kAvx512, kAvx512Vnni, kAvx512Bf16 };

const char* NameOf(Isa isa);  // "portable", "avx2", ...: values of TAUSERVE_CPU_ISA

// What this binary has kernels for and this machine can run, weakest first.
std::vector<Isa> AvailableIsas();

// The fastest available, or the one that the environment variable TAUSERVE_CPU_ISA names. InvalidArgument for an unknown
// name, FailedPrecondition for one that is not available.
absl::StatusOr<Isa> ChooseIsa();

}  // namespace tauserve::cpu

#endif  // TAUSERVE_KERNELS_CPU_ISA_H_
