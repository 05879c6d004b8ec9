// Which pages of the KV cache are in use. Pages are counted references: a page is free again when the last PageRef to it
// is gone, so it can't leak. A free page may be kept: its content stays known to the prefix index until the page is
// needed for something else, least recently used first. Used by one thread.
#ifndef TAUSERVE_SERVER_CACHE_PAGE_POOL_H_
#define TAUSERVE_SERVER_CACHE_PAGE_POOL_H_

#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "kernels/attention.h"

namespace tauserve {

class PagePool;

// Holds one page; empty after being moved from. Must not outlive its pool.
class PageRef {
 public:
  PageRef() = default;
  PageRef(PageRef&& other) noexcept : pool_(std::exchange(other.pool_, nullptr)), id_(other.id_) {}
  PageRef& operator=(PageRef&& other) noexcept {
    PageRef taken(std::move(other));
    std::swap(pool_, taken.pool_);
    std::swap(id_, taken.id_);
    return *this;
  }
  ~PageRef();

  bool empty() const { return pool_ == nullptr; }
  PageId id() const { return id_; }

 private:
  friend class PagePool;
  PageRef(PagePool* pool, PageId id) : pool_(pool), id_(id) {}

  PagePool* pool_ = nullptr;
  PageId id_ = -1;
};

class PagePool {
 public:
  explicit PagePool(int32_t num_pages);
  ~PagePool();  // no reference may be left
  PagePool(const PagePool&) = delete;
  PagePool& operator=(const PagePool&) = delete;

  int32_t num_pages() const { return static_cast<int32_t>(pages_.size()) - 1; }
  // Pages that no reference holds, kept ones included.
  int32_t free_pages() const { return free_pages_; }
  int32_t references(PageId id) const { return pages_[id].references; }

  // A free page whose content may be overwritten: one that is not kept if there is one, else the kept page that was
  // freed longest ago, which is then dropped. Empty if no page is free.
  PageRef Allocate();
  // One more reference to a page that is in use or kept.
  PageRef Share(PageId id);
  // Marks a page in use as kept once it is free. `on_drop` is told when its content is given up.
  void Keep(PageId id);
  // Gives up what a page in use would keep.
  void Forget(PageId id);
  // Gives up what free pages keep; returns how many.
  int32_t DropKept();
  void set_on_drop(std::function<void(PageId)> on_drop) { on_drop_ = std::move(on_drop); }

 private:
  friend class PageRef;
  struct Page {
    int32_t references = 0;
    bool kept = false;
    // Neighbours in the ring of free pages, through the sentinel at index num_pages.
    PageId previous = -1;
    PageId next = -1;
  };

  void Release(PageId id);
  void Link(PageId id, PageId previous);
  void Unlink(PageId id);
  void Drop(PageId id);
  PageId sentinel() const { return num_pages(); }

  std::vector<Page> pages_;  // and the sentinel
  int32_t free_pages_;
  std::function<void(PageId)> on_drop_;
};

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_CACHE_PAGE_POOL_H_
