#include "kernels/cpu/worker_memory.h"

#include <utility>

#include "kernels/check.h"

namespace tauserve::cpu {

WorkerMemory::WorkerMemory(int head_dim, int64_t max_keys) {
  const int64_t pages = max_keys / kPageTokens;
  w_.q.rows = Floats(kPaddedRows * head_dim);
  w_.q.pairs = reinterpret_cast<uint32_t*>(Floats(kPaddedRows * head_dim / 2));
  w_.q.bytes = reinterpret_cast<int8_t*>(Floats(kPaddedRows * head_dim / 4));
  w_.columns.page = Ints(kMaxColumns / kPageTokens);
  w_.columns.key = Ints(kMaxColumns + kPageTokens);
  w_.columns.score = Floats(int64_t{kPaddedRows} * kColumnStride);
  w_.columns.taken = Words(pages);
  w_.columns.supporters = Ints(kMaxColumns);
  w_.columns.attended = Words(kMaxGroups * (kMaxColumns / 64));
  w_.score = Floats(int64_t{kSearchRows} * kHitStride);
  w_.key = Ints(int64_t{kSearchRows} * kHitStride);
  w_.tile = Floats(kPageTokens * head_dim);
  w_.values = Floats(kPageTokens * head_dim);
  w_.dense = Floats(kDenseTiles * kTileRows * max_keys);
  w_.dense_dp = Floats(kDenseTiles * kTileRows * max_keys);
  w_.dout = Floats(kPaddedRows * head_dim);
  w_.accumulator = Floats(kPaddedRows * head_dim);
  w_.attended = Words(kMaxGroups * (pages / 64 + 1));
  w_.supporters = reinterpret_cast<uint8_t*>(Ints(max_keys / 4));
  w_.guess = Ints(max_keys);
  w_.max_keys = max_keys;
}

void* WorkerMemory::Bytes(int64_t n) {
  // A register's width behind the end may be read and written.
  absl::StatusOr<Mapping> mapping = Mapping::Create(n + 2 * 64);
  TAUSERVE_CHECK(mapping.ok(), "no memory for attention");
  mappings_.push_back(*std::move(mapping));
  return mappings_.back().data();
}

}  // namespace tauserve::cpu
