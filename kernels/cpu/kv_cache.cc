#include "kernels/cpu/kv_cache.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"

namespace tauserve::cpu {
namespace {

size_t LayerBytes(const KvCacheSpec& spec, DataType type) {
  return size_t(spec.num_pages) * spec.num_kv_heads * 2 * kPageTokens * spec.head_dim *
         SizeOf(type);
}

}  // namespace

absl::StatusOr<KvCache> KvCache::Create(const KvCacheSpec& spec, DataType type) {
  KvCache cache;
  cache.spec_ = spec;
  cache.type_ = type;
  cache.bytes_ = LayerBytes(spec, type) * spec.num_layers;
  void* memory = mmap(nullptr, cache.bytes_, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    return absl::ResourceExhaustedError(
        absl::StrCat("cannot allocate ", cache.bytes_, " bytes of KV cache: ", strerror(errno)));
  }
  madvise(memory, cache.bytes_, MADV_HUGEPAGE);  // a wish: attention walks pages in any order
  cache.memory_ = memory;
  cache.key_norms_.assign(size_t(spec.num_layers) * spec.num_pages * spec.num_kv_heads, 0.0f);
  return cache;
}

KvCache::~KvCache() {
  if (memory_ != nullptr) munmap(memory_, bytes_);
}

KvCache::KvCache(KvCache&& other) noexcept { *this = std::move(other); }

KvCache& KvCache::operator=(KvCache&& other) noexcept {
  std::swap(spec_, other.spec_);
  std::swap(type_, other.type_);
  std::swap(memory_, other.memory_);
  std::swap(bytes_, other.bytes_);
  std::swap(key_norms_, other.key_norms_);
  return *this;
}

int64_t KvCache::BytesPerPage(const KvCacheSpec& spec, DataType type) {
  KvCacheSpec one = spec;
  one.num_pages = 1;
  return spec.num_layers * (LayerBytes(one, type) + spec.num_kv_heads * sizeof(float));
}

LayerKv KvCache::layer(int index) const {
  TAUSERVE_CHECK(index >= 0 && index < spec_.num_layers, "layer out of range");
  LayerKv kv;
  kv.data = static_cast<std::byte*>(memory_) + LayerBytes(spec_, type_) * index;
  kv.key_norm =
      const_cast<float*>(key_norms_.data()) + size_t(index) * spec_.num_pages * spec_.num_kv_heads;
  kv.type = type_;
  kv.num_kv_heads = spec_.num_kv_heads;
  kv.head_dim = spec_.head_dim;
  return kv;
}

}  // namespace tauserve::cpu
