// The paged KV cache in host memory: one allocation, laid out as LayerKv says.
#ifndef TAUSERVE_KERNELS_CPU_KV_CACHE_H_
#define TAUSERVE_KERNELS_CPU_KV_CACHE_H_

#include <cstddef>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/cpu/attention_task.h"
#include "kernels/cpu/mapping.h"

namespace tauserve::cpu {

class KvCache {
 public:
  // `shadow`: whether byte copies of the keys are kept. ResourceExhausted if the memory can't be had. Pages take real
  // memory only once they are written.
  static absl::StatusOr<KvCache> Create(const KvCacheSpec& spec, DataType type, bool shadow);

  static int64_t BytesPerPage(const KvCacheSpec& spec, DataType type, bool shadow);
  LayerKv layer(int index);
  void CopyPage(const PageCopy& copy);
  const KvCacheSpec& spec() const { return spec_; }

 private:
  KvCacheSpec spec_;
  DataType type_ = DataType::kFloat32;
  bool shadow_ = false;
  Mapping memory_;
  std::vector<PageSummary> summaries_;  // [layers][pages][kv_heads]
};

}  // namespace tauserve::cpu

#endif  // TAUSERVE_KERNELS_CPU_KV_CACHE_H_
