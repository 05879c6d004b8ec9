// The paged KV cache in host memory: one allocation a layer, laid out as LayerKv says.
#ifndef TAUSERVE_KERNELS_CPU_KV_CACHE_H_
#define TAUSERVE_KERNELS_CPU_KV_CACHE_H_

#include <cstddef>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/cpu/attention_task.h"

namespace tauserve::cpu {

class KvCache {
 public:
  // ResourceExhausted if the memory can't be had. Pages take real memory only once they are written.
  static absl::StatusOr<KvCache> Create(const KvCacheSpec& spec, DataType type);

  KvCache() = default;
  ~KvCache();
  KvCache(KvCache&& other) noexcept;
  KvCache& operator=(KvCache&& other) noexcept;

  static int64_t BytesPerPage(const KvCacheSpec& spec, DataType type);
  LayerKv layer(int index) const;
  const KvCacheSpec& spec() const { return spec_; }

 private:
  KvCacheSpec spec_;
  DataType type_ = DataType::kFloat32;
  void* memory_ = nullptr;
  size_t bytes_ = 0;
  std::vector<float> key_norms_;  // [layers][pages][kv_heads]
};

}  // namespace tauserve::cpu

#endif  // TAUSERVE_KERNELS_CPU_KV_CACHE_H_
