// Finds pages whose keys and values are already known for the start of a prompt. A full page is known by its 64 tokens,
// by the page before it, and by the salt of its request: so equal entries mean equal prefixes, token by token, and a
// hash collision can't serve another prompt's pages. Used by one thread.
#ifndef TAUSERVE_SERVER_CACHE_PREFIX_INDEX_H_
#define TAUSERVE_SERVER_CACHE_PREFIX_INDEX_H_

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/types/span.h"
#include "server/cache/page_pool.h"

namespace tauserve {

class PrefixIndex {
 public:
  // Names a known prefix of whole pages; kRoot is the empty one.
  using PrefixId = uint64_t;
  static constexpr PrefixId kRoot = 0;

  explicit PrefixIndex(PagePool* pool);
  PrefixIndex(const PrefixIndex&) = delete;
  PrefixIndex& operator=(const PrefixIndex&) = delete;

  struct Match {
    std::vector<PageRef> pages;
    PrefixId prefix = kRoot;
  };
  // The longest known prefix of `tokens`, in whole pages.
  Match Find(const std::string& salt, absl::Span<const int32_t> tokens);

  // Makes known that `page`, in use, holds `tokens` (one page of them) behind `prefix`. Returns the longer prefix. Where
  // another page is known for it already, that one stays.
  PrefixId Add(const std::string& salt, PrefixId prefix, absl::Span<const int32_t> tokens,
               PageId page);

 private:
  struct Key {
    PrefixId prefix;
    std::string salt;  // for the first page only: later ones inherit it through `prefix`
    std::array<int32_t, kPageTokens> tokens;
    bool operator==(const Key&) const = default;
    template <typename H>
    friend H AbslHashValue(H h, const Key& k) {
      return H::combine(std::move(h), k.prefix, k.salt, k.tokens);
    }
  };
  struct Entry {
    PageId page;
    PrefixId prefix;  // that ends with this page
  };

  static Key MakeKey(const std::string& salt, PrefixId prefix, absl::Span<const int32_t> tokens);
  void Forget(PageId page);

  PagePool* pool_;
  absl::flat_hash_map<Key, Entry> entries_;
  std::vector<Key> keys_;  // of each page, where it is known
  PrefixId last_prefix_ = kRoot;
};

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_CACHE_PREFIX_INDEX_H_
