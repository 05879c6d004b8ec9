#include "kernels/cuda/step_state.h"

#include <algorithm>
#include <utility>

#include "kernels/check.h"
#include "kernels/cuda/cuda_check.h"

namespace tauserve::cuda {
namespace {

constexpr size_t kAlignment = 256;

size_t Aligned(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

int PagesOf(const SequenceSlice& s) {
  return (s.context_tokens + s.num_tokens + kPageTokens - 1) / kPageTokens;
}

}  // namespace

// Grows by doubling: after the first steps there is room for all that come.
bool StepState::Reserve(size_t bytes, size_t num_slices) {
  if (bytes > host_.size()) {
    const size_t size = std::max(bytes, 2 * host_.size());
    host_ = GpuBuffer(size, GpuBuffer::Kind::kPinned);
    device_ = GpuBuffer(size);
    generation_++;
  }
  const size_t stats_bytes = num_slices * sizeof(AttentionStats);
  if (stats_bytes > stats_.size()) {
    const size_t size = std::max(stats_bytes, 2 * stats_.size());
    host_stats_ = GpuBuffer(size, GpuBuffer::Kind::kPinned);
    stats_ = GpuBuffer(size);
    generation_++;
  }
  const bool ok = host_.data() && device_.data() && host_stats_.data() && stats_.data();
  return ok || CUDA_CHECK(cudaErrorMemoryAllocation);
}

template <typename T>
const T* StepState::Place(size_t count, T** host) {
  const size_t at = used_;
  used_ += Aligned(count * sizeof(T));
  TAUSERVE_CHECK(used_ <= host_.size(), "room for uploads");
  *host = reinterpret_cast<T*>(host_.as<char>() + at);
  return reinterpret_cast<const T*>(device_.as<char>() + at);
}

bool StepState::Begin(absl::Span<const SequenceSlice> slices, cudaStream_t stream) {
  size_t num_rows = 0, num_pages = 0;
  for (const SequenceSlice& s : slices) {
    TAUSERVE_CHECK(s.first_row == static_cast<int>(num_rows) && s.num_tokens > 0,
                   "slices cover the rows in order");
    num_rows += s.num_tokens;
    num_pages += PagesOf(s);
  }
  num_rows_ = static_cast<int>(num_rows);
  slices_.clear();
  used_ = 0;
  // Tokens, rows to gather twice, and what is wanted of logits, are kept later.
  const size_t kept_bytes =
      3 * Aligned(num_rows * sizeof(int32_t)) + Aligned(2 * num_rows * sizeof(int32_t));
  const size_t bytes = Aligned(slices.size() * sizeof(Slice)) + kept_bytes +
                       2 * Aligned(num_rows * sizeof(int32_t)) +
                       2 * Aligned(num_pages * sizeof(int32_t));
  if (!Reserve(bytes, slices.size())) return false;
  Slice* to;
  int32_t *pages, *positions, *slots, *begun;
  device_slices_ = Place(slices.size(), &to);
  positions_ = Place(num_rows, &positions);
  row_slots_ = Place(num_rows, &slots);
  const size_t kept_from = used_;
  used_ += kept_bytes;
  page_table_ = Place(num_pages, &pages);
  begun_pages_ = Place(num_pages, &begun);
  int32_t first_page = 0;
  num_begun_pages_ = 0;
  for (const SequenceSlice& s : slices) {
    slices_.push_back({s.first_row, s.num_tokens, s.context_tokens, first_page});
    std::copy_n(s.pages, PagesOf(s), pages + first_page);
    first_page += PagesOf(s);
    for (int t = 0; t < s.num_tokens; t++) {
      const int position = s.context_tokens + t;
      const int32_t page = s.pages[position / kPageTokens];
      positions[s.first_row + t] = position;
      slots[s.first_row + t] = page * kPageTokens + position % kPageTokens;
      if (position % kPageTokens == 0) begun[num_begun_pages_++] = page;
    }
  }
  std::copy(slices_.begin(), slices_.end(), to);
  CUDA_CHECK(cudaMemcpyAsync(device_.data(), host_.data(), used_, cudaMemcpyHostToDevice, stream));
  CUDA_CHECK(cudaMemsetAsync(stats_.data(), 0, slices.size() * sizeof(AttentionStats), stream));
  used_ = kept_from;
  kept_end_ = kept_from + kept_bytes;
  return true;
}

StepState::Values StepState::Keep(absl::Span<const int32_t> values) {
  Values kept;
  int32_t* host;
  kept.bytes = values.size() * sizeof(int32_t);
  kept.device = Place(values.size(), &host);
  TAUSERVE_CHECK(used_ <= kept_end_, "more values than a step's operations have");
  std::copy(values.begin(), values.end(), host);
  kept.host = host;
  return kept;
}

void StepState::Send(const Values& values, cudaStream_t stream) {
  CUDA_CHECK(cudaMemcpyAsync(const_cast<int32_t*>(values.device), values.host, values.bytes,
                             cudaMemcpyHostToDevice, stream));
}

void StepState::DownloadStats(cudaStream_t stream) {
  if (slices_.empty()) return;
  CUDA_CHECK(cudaMemcpyAsync(host_stats_.data(), stats_.data(),
                             slices_.size() * sizeof(AttentionStats), cudaMemcpyDeviceToHost,
                             stream));
}

}  // namespace tauserve::cuda
