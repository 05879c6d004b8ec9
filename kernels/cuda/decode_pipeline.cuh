// A warp's copies of key tiles from pages to shared memory, several in flight: bulk copies by the copy engine on sm_90,
// cp.async on sm_80. Pages may be skipped, by a test on up to 32 pages at once.
#ifndef TAUSERVE_KERNELS_CUDA_DECODE_PIPELINE_CUH_
#define TAUSERVE_KERNELS_CUDA_DECODE_PIPELINE_CUH_

#include <cstdint>

#include "kernels/cuda/decode_tile.cuh"

namespace tauserve::cuda::decode {

inline constexpr int kMaxStages = 4;

__device__ __forceinline__ uint32_t SharedAddress(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

__device__ __forceinline__ void InitBarrier(uint64_t* barrier) {
#if __CUDA_ARCH__ >= 900
  constexpr int kArrivals = 1;
#else
  constexpr int kArrivals = 32;
#endif
  asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(SharedAddress(barrier)), "r"(kArrivals)
               : "memory");
}

__device__ __forceinline__ void WaitBarrier(uint64_t* barrier, int parity) {
  cuda::WaitBarrier(SharedAddress(barrier), parity);
}

// Orders a thread's writes to shared memory before bulk copies to the same place that are started behind a barrier.
__device__ __forceinline__ void FenceBeforeCopies() {
#if __CUDA_ARCH__ >= 900
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

// Copies one tile; called by the whole warp after every lane is done with the stage.
template <typename Shape>
__device__ __forceinline__ void CopyTile(char* stage, uint64_t* barrier, const char* keys,
                                         const ShadowScale* scales) {
  const int lane = threadIdx.x & 31;
#if __CUDA_ARCH__ >= 900
  if (lane == 0) {
    asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(SharedAddress(barrier)),
                 "r"(Shape::kBytes)
                 : "memory");
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
            "r"(SharedAddress(stage)),
        "l"(keys), "r"(Shape::kKeyBytes), "r"(SharedAddress(barrier))
        : "memory");
    if constexpr (Shape::kScaleBytes > 0) {
      asm volatile(
          "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, "
          "[%3];" ::"r"(SharedAddress(stage + Shape::kKeyBytes)),
          "l"(scales), "r"(Shape::kScaleBytes), "r"(SharedAddress(barrier))
          : "memory");
    }
  }
#else
#pragma unroll
  for (int at = 0; at < Shape::kKeyBytes; at += 512) {
    if (at + 512 <= Shape::kKeyBytes || at + lane * 16 < Shape::kKeyBytes) {
      asm volatile(
          "cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(SharedAddress(stage + at + lane * 16)),
          "l"(keys + at + lane * 16)
          : "memory");
    }
  }
  if (Shape::kScaleBytes > 0 && lane * 16 < Shape::kScaleBytes) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(
                     SharedAddress(stage + Shape::kKeyBytes + lane * 16)),
                 "l"(reinterpret_cast<const char*>(scales) + lane * 16)
                 : "memory");
  }
  asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(SharedAddress(barrier))
               : "memory");
#endif
}

// What a stage holds.
struct TileLabel {
  int page;      // of the sequence
  int page_id;   // of the pool
  int sub_tile;  // of the page
};

// A warp's stages; barriers keep their phases from piece to piece, so `used` does too.
struct WarpStages {
  char* memory;
  uint64_t* barriers;  // [num_stages]
  TileLabel* labels;   // [num_stages]
  int num_stages;
  int copy_stage = 0;  // next to be filled
  int read_stage = 0;  // next to be read
  int read_parity = 0;
  int in_flight = 0;
};

// Walks pages of a sequence from the newest on and keeps the stages filled.
template <int kHeadDim, bool kShadow>
class TileStream {
 public:
  using Shape = Tile<kHeadDim, kShadow>;

  __device__ __forceinline__ TileStream(const AttentionArgs& args, const DecodeGroup& group,
                                        WarpStages& stages)
      : args_(args),
        table_(args.page_table + group.page_table),
        kv_head_(group.kv_head),
        stages_(stages) {}

  // Pages last_page, last_page - stride, ...: num_pages of them. Only when nothing is in flight.
  __device__ __forceinline__ void Start(int last_page, int stride, int num_pages) {
    last_page_ = last_page;
    stride_ = stride;
    num_pages_ = num_pages;
    next_ = 0;
    batch_ = 0;
    sub_tile_ = Shape::kPerPage;
    LoadBatch();
  }

  // No more copies.
  __device__ __forceinline__ void Stop() {
    next_ = num_pages_;
    batch_ = 0;
    sub_tile_ = Shape::kPerPage;
  }

  // Starts copies while there are tiles and free stages. `keep(page, page_id)` tells whether a page has to be read.
  template <typename Keep>
  __device__ __forceinline__ void Fill(Keep keep) {
#pragma unroll 1
    while (stages_.in_flight < stages_.num_stages && NextTile(keep)) {
      const int s = stages_.copy_stage;
      const int64_t page =
          (static_cast<int64_t>(page_id_) * args_.num_kv_heads + kv_head_) * kPageTokens +
          sub_tile_ * Shape::kKeys;
      const char* keys = kShadow ? reinterpret_cast<const char*>(args_.shadow)
                                 : reinterpret_cast<const char*>(args_.keys);
      if ((threadIdx.x & 31) == 0) stages_.labels[s] = {page_, page_id_, sub_tile_};
      CopyTile<Shape>(stages_.memory + s * Shape::kBytes, stages_.barriers + s,
                      keys + page * Shape::kRowBytes,
                      kShadow ? args_.shadow_scale + page : nullptr);
      stages_.copy_stage = s + 1 == stages_.num_stages ? 0 : s + 1;
      stages_.in_flight++;
      sub_tile_++;
    }
  }

  // Waits for the oldest copy. False: none is in flight.
  __device__ __forceinline__ bool Wait(const char*& tile, TileLabel& label) {
    if (stages_.in_flight == 0) return false;
    const int s = stages_.read_stage;
    WaitBarrier(stages_.barriers + s, stages_.read_parity);
    __syncwarp();
    tile = stages_.memory + s * Shape::kBytes;
    label = stages_.labels[s];
    return true;
  }

  // Gives the tile's stage back.
  __device__ __forceinline__ void Release() {
    __syncwarp();
    stages_.in_flight--;
    if (++stages_.read_stage == stages_.num_stages) {
      stages_.read_stage = 0;
      stages_.read_parity ^= 1;
    }
  }

 private:
  // Asks for the ids of the next 32 pages.
  __device__ __forceinline__ void LoadBatch() {
    const int index = next_ + (threadIdx.x & 31);
    next_ids_ = index < num_pages_ ? __ldg(table_ + last_page_ - index * stride_) : -1;
  }

  template <typename Keep>
  __device__ __forceinline__ bool NextTile(Keep keep) {
    if (sub_tile_ < Shape::kPerPage) return true;
    const int lane = threadIdx.x & 31;
#pragma unroll 1
    while (batch_ == 0) {
      if (next_ >= num_pages_) return false;
      batch_ids_ = next_ids_;
      const int page = last_page_ - (next_ + lane) * stride_;
      batch_ = __ballot_sync(kFullWarp, batch_ids_ >= 0 && keep(page, batch_ids_));
      batch_first_ = next_;
      next_ += 32;
      LoadBatch();
    }
    const int bit = __ffs(batch_) - 1;
    batch_ &= batch_ - 1;
    page_ = last_page_ - (batch_first_ + bit) * stride_;
    page_id_ = __shfl_sync(kFullWarp, batch_ids_, bit);
    sub_tile_ = 0;
    return true;
  }

  const AttentionArgs& args_;
  const int32_t* table_;
  int kv_head_;
  int last_page_ = 0;
  int stride_ = 0;
  int num_pages_ = 0;
  WarpStages& stages_;
  unsigned batch_ = 0;  // pages of the batch still to be read
  int batch_ids_ = -1;  // a lane's page
  int batch_first_ = 0;
  int next_ids_ = -1;  // of the batch behind it
  int next_ = 0;
  int page_ = 0;
  int page_id_ = -1;
  int sub_tile_ = 0;
};

}  // namespace tauserve::cuda::decode

#endif  // TAUSERVE_KERNELS_CUDA_DECODE_PIPELINE_CUH_
