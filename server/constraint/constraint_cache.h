// Compiles constraints for one vocabulary and keeps those used last. Thread-safe.
#ifndef TAUSERVE_SERVER_CONSTRAINT_CONSTRAINT_CACHE_H_
#define TAUSERVE_SERVER_CONSTRAINT_CONSTRAINT_CACHE_H_

#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "server/constraint/constraint.h"
#include "server/constraint/token_trie.h"
#include "server/model/tokenizer/tokenizer.h"
#include "server/observability/metrics.h"

namespace tauserve {

class ConstraintCache {
 public:
  // At most `max_bytes` of constraints are kept beside those in use, each of at most a quarter of it. Pointers must
  // outlive this object and the constraints; `metrics` may be null.
  ConstraintCache(const Tokenizer* tokenizer, int32_t vocab_size, int64_t max_bytes,
                  Metrics* metrics);

  // InvalidArgument where the constraint is wrong, unsupported, too large or ambiguous, or matches only the empty text.
  absl::StatusOr<std::shared_ptr<Constraint>> Get(const ConstraintSpec& spec);

  int64_t bytes() const;

 private:
  using Entries = std::list<std::pair<ConstraintSpec, std::shared_ptr<Constraint>>>;

  absl::StatusOr<std::shared_ptr<Constraint>> Compile(const ConstraintSpec& spec);
  void MakeTries();
  void DropOldest();  // until what is kept fits

  const Tokenizer* const tokenizer_;
  const int32_t vocab_size_;
  const int64_t max_bytes_;
  Metrics* const metrics_;
  std::once_flag tries_made_;  // by the first constraint: servers without any need none
  std::shared_ptr<const TokenTrie> tokens_, first_tokens_;

  mutable std::mutex mutex_;
  Entries entries_;  // last used first
  absl::flat_hash_map<ConstraintSpec, Entries::iterator> by_spec_;
};

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_CONSTRAINT_CONSTRAINT_CACHE_H_
