// What a step's kernels know of its rows: slices, page tables, positions and cache slots, uploaded once from pinned
// memory, with room for the small arrays that operations add (tokens, row indices). And the step's statistics on
// their way back.
#ifndef TAUSERVE_KERNELS_CUDA_STEP_STATE_H_
#define TAUSERVE_KERNELS_CUDA_STEP_STATE_H_

#include <cuda_runtime.h>

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "kernels/attention.h"
#include "kernels/cuda/attention_args.h"
#include "kernels/cuda/device.h"

namespace tauserve::cuda {

class StepState {
 public:
  // An array of the step, in pinned memory and where it goes on the device.
  struct Values {
    const int32_t* host = nullptr;
    const int32_t* device = nullptr;
    size_t bytes = 0;
  };

  // Uploads; the last step's uploads must be done. False where memory was short.
  bool Begin(absl::Span<const SequenceSlice> slices, cudaStream_t stream);
  // Keeps values for Send; valid until the next Begin. In a step at most thrice one value a row, and once two. Steps with
  // the same numbers of slices and rows have them in the same places, as long as generation() is the same.
  Values Keep(absl::Span<const int32_t> values);
  static void Send(const Values& values, cudaStream_t stream);
  int generation() const { return generation_; }
  // Queues the copy of the statistics; stats() after the stream was waited for.
  void DownloadStats(cudaStream_t stream);
  absl::Span<const AttentionStats> stats() const {
    return {host_stats_.as<AttentionStats>(), slices_.size()};
  }

  int num_rows() const { return num_rows_; }
  absl::Span<const Slice> slices() const { return slices_; }
  // Device memory.
  const Slice* device_slices() const { return device_slices_; }
  const int32_t* page_table() const { return page_table_; }
  const int32_t* positions() const { return positions_; }      // [rows]
  const int32_t* row_slots() const { return row_slots_; }      // [rows]: page * kPageTokens + place
  const int32_t* begun_pages() const { return begun_pages_; }  // whose first slot a row takes
  int num_begun_pages() const { return num_begun_pages_; }
  AttentionStats* device_stats() const { return stats_.as<AttentionStats>(); }

 private:
  bool Reserve(size_t bytes, size_t num_slices);
  // A place for `count` values, written by the host at *host.
  template <typename T>
  const T* Place(size_t count, T** host);

  GpuBuffer host_{0, GpuBuffer::Kind::kPinned}, device_;  // of the same layout
  size_t used_ = 0;
  size_t kept_end_ = 0;
  int generation_ = 0;  // of the buffers
  GpuBuffer host_stats_{0, GpuBuffer::Kind::kPinned}, stats_;
  int num_rows_ = 0;
  std::vector<Slice> slices_;
  const Slice* device_slices_ = nullptr;
  const int32_t* page_table_ = nullptr;
  const int32_t* positions_ = nullptr;
  const int32_t* row_slots_ = nullptr;
  const int32_t* begun_pages_ = nullptr;
  int num_begun_pages_ = 0;
};

}  // namespace tauserve::cuda

#endif  // TAUSERVE_KERNELS_CUDA_STEP_STATE_H_
