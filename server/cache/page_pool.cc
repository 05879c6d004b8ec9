#include "server/cache/page_pool.h"

#include "kernels/check.h"

namespace tauserve {

PageRef::~PageRef() {
  if (pool_ != nullptr) pool_->Release(id_);
}

PagePool::PagePool(int32_t num_pages) : pages_(num_pages + 1), free_pages_(num_pages) {
  TAUSERVE_CHECK(num_pages >= 0, "a pool of negative size");
  pages_[sentinel()].previous = pages_[sentinel()].next = sentinel();
  for (PageId id = num_pages - 1; id >= 0; id--) Link(id, sentinel());
}

PagePool::~PagePool() { TAUSERVE_CHECK(free_pages_ == num_pages(), "a page outlives its pool"); }

PageRef PagePool::Allocate() {
  if (free_pages_ == 0) return PageRef();
  const PageId id = pages_[sentinel()].next;
  Unlink(id);
  Drop(id);
  pages_[id].references = 1;
  return PageRef(this, id);
}

PageRef PagePool::Share(PageId id) {
  TAUSERVE_CHECK(id >= 0 && id < num_pages(), "page out of range");
  TAUSERVE_CHECK(pages_[id].references > 0 || pages_[id].kept, "sharing a page without content");
  if (pages_[id].references == 0) Unlink(id);
  pages_[id].references++;
  return PageRef(this, id);
}

void PagePool::Keep(PageId id) {
  TAUSERVE_CHECK(id >= 0 && id < num_pages() && pages_[id].references > 0, "keeping a free page");
  pages_[id].kept = true;
}

void PagePool::Forget(PageId id) {
  TAUSERVE_CHECK(id >= 0 && id < num_pages() && pages_[id].references > 0,
                 "forgetting a free page");
  Drop(id);
}

int32_t PagePool::DropKept() {
  int32_t dropped = 0;
  for (PageId id = pages_[sentinel()].next; id != sentinel(); id = pages_[id].next) {
    dropped += pages_[id].kept;
    Drop(id);
  }
  return dropped;
}

// Free pages that are not kept go to the front of the ring, kept ones to its back; Allocate takes the front.
void PagePool::Release(PageId id) {
  Page& page = pages_[id];
  TAUSERVE_CHECK(page.references > 0, "releasing a free page");
  if (--page.references > 0) return;
  Link(id, page.kept ? pages_[sentinel()].previous : sentinel());
  free_pages_++;
}

void PagePool::Link(PageId id, PageId previous) {
  const PageId next = pages_[previous].next;
  pages_[id].previous = previous;
  pages_[id].next = next;
  pages_[previous].next = id;
  pages_[next].previous = id;
}

void PagePool::Unlink(PageId id) {
  pages_[pages_[id].previous].next = pages_[id].next;
  pages_[pages_[id].next].previous = pages_[id].previous;
  free_pages_--;
}

void PagePool::Drop(PageId id) {
  if (!pages_[id].kept) return;
  pages_[id].kept = false;
  if (on_drop_) on_drop_(id);
}

}  // namespace tauserve
