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
    case Isa::kAvx512Vnni:
      return "avx512_vnni";
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
  if (isas.back() == Isa::kAvx512 && __builtin_cpu_supports("avx512vnni")) {
    isas.push_back(Isa::kAvx512Vnni);
  }
  if (isas.back() == Isa::kAvx512Vnni && __builtin_cpu_supports("avx512bf16")) {
    isas.push_back(Isa::kAvx512Bf16);
  }
#endif
  return isas;
}

namespace {

// Intel's cores take two cycles for a product of bfloat16 pairs and half a cycle for one of floats: converting is twice
// as fast there. Measured on Sapphire and Emerald Rapids; on Zen 4 the product takes one cycle, as that of floats.
Isa Fastest(const std::vector<Isa>& available) {
#ifdef TAUSERVE_X86_KERNELS
  if (available.back() == Isa::kAvx512Bf16 && __builtin_cpu_is("intel")) return Isa::kAvx512Vnni;
#endif
  return available.back();
}

}  // namespace

absl::StatusOr<Isa> ChooseIsa() {
  const std::vector<Isa> available = AvailableIsas();
  const char* forced = std::getenv("TAUSERVE_CPU_ISA");
  if (forced == nullptr || *forced == '\0') return Fastest(available);
  for (Isa isa : available) {
    if (std::string(forced) == NameOf(isa)) return isa;
  }
  for (Isa isa : {Isa::kAvx2, Isa::kAvx512, Isa::kAvx512Vnni, Isa::kAvx512Bf16}) {
    if (std::string(forced) == NameOf(isa)) {
      return absl::FailedPreconditionError(absl::StrCat(
          "TAUSERVE_CPU_ISA=", forced, " is not available on this machine; it has up to ",
          NameOf(available.back())));
    }
  }
  return absl::InvalidArgumentError(
      absl::StrCat("TAUSERVE_CPU_ISA=", forced,
                   " is unknown: choose portable, avx2, avx512, avx512_vnni or avx512_bf16"));
}

}  // namespace tauserve::cpu
