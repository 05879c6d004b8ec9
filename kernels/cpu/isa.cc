#include "kernels/cpu/isa.h"

#include <cstdlib>
#include <string>

#include "absl/strings/str_cat.h"

namespace tauserve::cpu {

const char* NameOf(Isa isa) {
  switch (isa) {
    case Isa::kPortable:
      return "portable";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvx512:
      return "avx512";
    case Isa::kAvx512Bf16:
      return "avx512_bf16";
  }
  return "unknown";
}

std::vector<Isa> AvailableIsas() {
  std::vector<Isa> isas = {Isa::kPortable};
#ifdef TAUSERVE_X86_KERNELS
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) isas.push_back(Isa::kAvx2);
  if (isas.back() == Isa::kAvx2 && __builtin_cpu_supports("avx512f") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl")) {
    isas.push_back(Isa::kAvx512);
  }
  if (isas.back() == Isa::kAvx512 && __builtin_cpu_supports("avx512bf16") &&
      __builtin_cpu_supports("avx512vnni")) {
    isas.push_back(Isa::kAvx512Bf16);
  }
#endif
  return isas;
}

absl::StatusOr<Isa> ChooseIsa() {
  const std::vector<Isa> available = AvailableIsas();
  const char* forced = std::getenv("TAUSERVE_CPU_ISA");
  if (forced == nullptr || *forced == '\0') return available.back();
  for (Isa isa : available) {
    if (std::string(forced) == NameOf(isa)) return isa;
  }
  for (Isa isa : {Isa::kAvx2, Isa::kAvx512, Isa::kAvx512Bf16}) {
    if (std::string(forced) == NameOf(isa)) {
      return absl::FailedPreconditionError(
          absl::StrCat("TAUSERVE_CPU_ISA=", forced, " is not available on this machine; best is ",
                       NameOf(available.back())));
    }
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "TAUSERVE_CPU_ISA=", forced, " is unknown: choose portable, avx2, avx512 or avx512_bf16"));
}

}  // namespace tauserve::cpu
