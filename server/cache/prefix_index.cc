#include "server/cache/prefix_index.h"

#include <algorithm>
#include <utility>

#include "kernels/check.h"

namespace tauserve {

PrefixIndex::PrefixIndex(PagePool* pool) : pool_(pool), keys_(pool->num_pages()) {
  pool->set_on_drop([this](PageId page) { Forget(page); });
}

PrefixIndex::Match PrefixIndex::Find(const std::string& salt, absl::Span<const int32_t> tokens) {
  Match match;
  for (size_t at = 0; at + kPageTokens <= tokens.size(); at += kPageTokens) {
    const auto it = entries_.find(MakeKey(salt, match.prefix, tokens.subspan(at, kPageTokens)));
    if (it == entries_.end()) break;
    match.pages.push_back(pool_->Share(it->second.page));
    match.prefix = it->second.prefix;
  }
  return match;
}

PrefixIndex::PrefixId PrefixIndex::Add(const std::string& salt, PrefixId prefix,
                                       absl::Span<const int32_t> tokens, PageId page) {
  const auto [it, added] = entries_.try_emplace(MakeKey(salt, prefix, tokens), Entry{page, 0});
  if (added) {
    it->second.prefix = ++last_prefix_;
    keys_[page] = it->first;
    pool_->Keep(page);
  }
  return it->second.prefix;
}

PrefixIndex::Key PrefixIndex::MakeKey(const std::string& salt, PrefixId prefix,
                                      absl::Span<const int32_t> tokens) {
  TAUSERVE_CHECK(tokens.size() == kPageTokens, "an index entry is one page");
  Key key;
  key.prefix = prefix;
  if (prefix == kRoot) key.salt = salt;
  std::copy(tokens.begin(), tokens.end(), key.tokens.begin());
  return key;
}

void PrefixIndex::Forget(PageId page) { entries_.erase(keys_[page]); }

}  // namespace tauserve
