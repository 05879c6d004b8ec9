// The table of kernels that are compiled once for each instruction set.
#ifndef TAUSERVE_KERNELS_CPU_KERNELS_H_
#define TAUSERVE_KERNELS_CPU_KERNELS_H_

#include <cstdint>

#include "kernels/backend.h"
#include "kernels/cpu/attention_task.h"
#include "kernels/cpu/isa.h"

namespace tauserve::cpu {

struct Kernels {
  bool uses_shadow;  // searches int8 copies of the keys: the cache has to keep them
  // Attention of one task; adds to w.stats[task.slice_index]. A prefilled head begins with the keys in w.guess and leaves
  // there what its last rows supported.
  void (*attend)(const AttentionCall& call, const AttentionTask& task, Workspace& w);
  // Gradients of one task: writes its rows of dq, adds to its dk and dv.
  void (*attend_gradients)(const GradientCall& call, const GradientTask& task, Workspace& w);
  void (*append_token)(const LayerKv& kv, PageId previous, PageId page, int slot, int kv_head,
                       const float* key, const float* value);
  void (*rms_norm)(const float* in, const float* weight, int n, float epsilon, float* out);
  void (*gated_activation)(Activation activation, const float* gate, const float* up, int n,
                           float* out);
  void (*rope)(float* x, const float* cos, const float* sin, int half);
  void (*to_bf16)(const float* in, int64_t n, uint16_t* out);
  // out = in + bias (if there is one), or out += that.
  void (*put_row)(const float* in, const float* bias, bool add, int64_t n, float* out);
};

const Kernels& KernelsFor(Isa isa);

// One definition for each instruction set, in that set's namespace.
namespace portable {
extern const Kernels kKernels;
}
#ifdef TAUSERVE_X86_KERNELS
namespace avx2 {
extern const Kernels kKernels;
}
namespace avx512 {
extern const Kernels kKernels;
}
namespace avx512_vnni {
extern const Kernels kKernels;
}
namespace avx512_bf16 {
extern const Kernels kKernels;
}
#endif

}  // namespace tauserve::cpu

#endif  // TAUSERVE_KERNELS_CPU_KERNELS_H_
