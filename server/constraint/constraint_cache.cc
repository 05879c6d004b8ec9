#include "server/constraint/constraint_cache.h"

#include <vector>

#include "absl/time/clock.h"

namespace tauserve {
namespace {

constexpr size_t kMaxEntries = 1000;

}  // namespace

ConstraintCache::ConstraintCache(const Tokenizer* tokenizer, int32_t vocab_size, int64_t max_bytes,
                                 Metrics* metrics)
    : tokenizer_(tokenizer), vocab_size_(vocab_size), max_bytes_(max_bytes), metrics_(metrics) {}

void ConstraintCache::MakeTries() {
  tokens_ = std::make_shared<const TokenTrie>(*tokenizer_, false);
  first_tokens_ = tokens_;
  for (int32_t id = 0; id < tokenizer_->vocab_size(); id++) {
    if (tokenizer_->TokenBytes(id, true) == tokenizer_->TokenBytes(id, false)) continue;
    first_tokens_ = std::make_shared<const TokenTrie>(*tokenizer_, true);
    return;
  }
}

absl::StatusOr<std::shared_ptr<Constraint>> ConstraintCache::Get(const ConstraintSpec& spec) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    const auto it = by_spec_.find(spec);
    if (it != by_spec_.end()) {
      entries_.splice(entries_.begin(), entries_, it->second);
      if (metrics_ != nullptr) metrics_->ConstraintFound();
      return it->second->second;
    }
  }
  const absl::Time begin = absl::Now();
  absl::StatusOr<std::shared_ptr<Constraint>> made = Compile(spec);
  if (metrics_ != nullptr) metrics_->ConstraintCompiled(absl::Now() - begin, made.ok());
  if (!made.ok()) return made;
  std::lock_guard<std::mutex> lock(mutex_);
  if (const auto it = by_spec_.find(spec); it != by_spec_.end()) return it->second->second;
  entries_.emplace_front(spec, *made);
  by_spec_[spec] = entries_.begin();
  DropOldest();
  return made;
}

absl::StatusOr<std::shared_ptr<Constraint>> ConstraintCache::Compile(const ConstraintSpec& spec) {
  absl::StatusOr<Nfa> nfa = CompileNfa(spec);
  if (!nfa.ok()) return nfa.status();
  std::call_once(tries_made_, [this] { MakeTries(); });
  auto constraint = std::make_shared<Constraint>(*std::move(nfa), tokenizer_, tokens_,
                                                 first_tokens_, vocab_size_, max_bytes_ / 4);
  ConstraintMatcher matcher(constraint);
  if (matcher.final()) {
    return absl::InvalidArgumentError("the constraint matches only the empty text");
  }
  std::vector<uint64_t> mask((vocab_size_ + 63) / 64);
  if (absl::Status s = matcher.FillMask(absl::MakeSpan(mask)); !s.ok()) return s;
  return constraint;
}

int64_t ConstraintCache::bytes() const {
  std::lock_guard<std::mutex> lock(mutex_);
  int64_t bytes = 0;
  for (const auto& [spec, constraint] : entries_) {
    bytes += static_cast<int64_t>(spec.text.size()) * 2 + constraint->bytes();
  }
  return bytes;
}

// Constraints grow while they are used, so all are counted anew.
void ConstraintCache::DropOldest() {
  int64_t bytes = 0;
  size_t kept = 0;
  for (auto it = entries_.begin(); it != entries_.end();) {
    bytes += static_cast<int64_t>(it->first.text.size()) * 2 + it->second->bytes();
    if (++kept > kMaxEntries || (bytes > max_bytes_ && kept > 1)) {
      by_spec_.erase(it->first);
      it = entries_.erase(it);
    } else {
      ++it;
    }
  }
}

}  // namespace tauserve
