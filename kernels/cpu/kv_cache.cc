#include "kernels/cpu/kv_cache.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "kernels/check.h"

namespace tauserve::cpu {
namespace {

// One page of one KV head.
size_t HeadBytes(const KvCacheSpec& spec, DataType type, bool shadow) {
  return size_t{kPageTokens} * spec.head_dim * (2 * SizeOf(type) + (shadow ? 1 : 0));
}

size_t LayerBytes(const KvCacheSpec& spec, DataType type, bool shadow) {
  return size_t(spec.num_pages) * spec.num_kv_heads * HeadBytes(spec, type, shadow);
}

}  // namespace

absl::StatusOr<KvCache> KvCache::Create(const KvCacheSpec& spec, DataType type, bool shadow) {
  KvCache cache;
  cache.spec_ = spec;
  cache.type_ = type;
  cache.shadow_ = shadow;
  // The kernels may read a register's width beyond the last row.
  absl::StatusOr<Mapping> memory =
      Mapping::Create(LayerBytes(spec, type, shadow) * spec.num_layers + 64);
  if (!memory.ok()) return memory.status();
  cache.memory_ = *std::move(memory);
  cache.summaries_.resize(size_t(spec.num_layers) * spec.num_pages * spec.num_kv_heads);
  return cache;
}

int64_t KvCache::BytesPerPage(const KvCacheSpec& spec, DataType type, bool shadow) {
  return int64_t{spec.num_layers} * spec.num_kv_heads *
         (HeadBytes(spec, type, shadow) + sizeof(PageSummary));
}

LayerKv KvCache::layer(int index) {
  TAUSERVE_CHECK(index >= 0 && index < spec_.num_layers, "layer out of range");
  LayerKv kv;
  kv.data = static_cast<std::byte*>(memory_.data()) + LayerBytes(spec_, type_, shadow_) * index;
  kv.summaries = summaries_.data() + size_t(index) * spec_.num_pages * spec_.num_kv_heads;
  kv.type = type_;
  kv.num_kv_heads = spec_.num_kv_heads;
  kv.head_dim = spec_.head_dim;
  kv.has_shadow = shadow_;
  return kv;
}

void KvCache::CopyPage(const PageCopy& copy) {
  for (PageId page : {copy.from, copy.to}) {
    TAUSERVE_CHECK(page >= 0 && page < spec_.num_pages, "page out of range");
  }
  const size_t bytes = spec_.num_kv_heads * HeadBytes(spec_, type_, shadow_);
  for (int index = 0; index < spec_.num_layers; index++) {
    const LayerKv kv = layer(index);
    std::memcpy(kv.keys(copy.to, 0), kv.keys(copy.from, 0), bytes);
    std::copy_n(&kv.summary(copy.from, 0), spec_.num_kv_heads, &kv.summary(copy.to, 0));
  }
}

}  // namespace tauserve::cpu
