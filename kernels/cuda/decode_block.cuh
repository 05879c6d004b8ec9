// What the steps of the decode kernel share: parameters, shared memory, counters.
#ifndef TAUSERVE_KERNELS_CUDA_DECODE_BLOCK_CUH_
#define TAUSERVE_KERNELS_CUDA_DECODE_BLOCK_CUH_

#include "kernels/cuda/decode_candidates.cuh"
#include "kernels/cuda/decode_pipeline.cuh"
#include "kernels/cuda/stats_atomics.cuh"

namespace tauserve::cuda::decode {

struct Params {
  AttentionArgs args;
  DecodeHeader* header;       // the plan's device copy
  const DecodePiece* pieces;  // of it
  Slot* slots;                // workspace
  void* wide_rows;            // of wide groups, decode_wide.cuh
  float* partials;            // of wide groups: [blocks + groups][kDecodeColumns][head_dim]
  float* scores;              // of wide groups
  int64_t score_capacity;     // floats
  int num_stages;             // a warp
  int list_capacity;          // of a merged list
};

inline constexpr int kRowSlots = 8;  // tiles of a RowStream, at most

struct BlockShared {
  uint64_t barrier[kWarps][kMaxStages];
  TileLabel label[kWarps][kMaxStages];
  DecodePiece piece;
  float mul[kDecodeColumns];  // of the columns, as Column
  float alpha[kDecodeColumns];
  int pages_read[kWarps];
  int keys_scored[kWarps];
  float2 exchange[kWarps][kDecodeColumns];       // maxima and floors
  float4 sums[2][kWarps * kDecodeColumns];       // of candidates above a floor
  alignas(16) int kept[kDecodeColumns][kWarps];  // candidates of the piece
  float bound[kWarps][3][kDecodeColumns];   // a column's floor, |mul q|, slope: a page test's input
  float2 softmax[kWarps][kDecodeColumns];   // maximum, sum
  uint64_t row_barrier[kWarps][kRowSlots];  // of a RowStream
  uint32_t row_parity[kWarps];
  int prefix[kDecodeColumns][kMaxDecodeBlocks + 1];
  int merged[kDecodeColumns];  // candidates; -1: wide
  int support[kDecodeColumns];
  int attended[kDecodeColumns];
  int iterations[kDecodeColumns];
  float residual[kDecodeColumns];
  float reduce[kWarps][4];
  int flag;
  int left;  // 1: this block is counted as done
};

inline constexpr int kListBytes = kWarps * kWarpEntries * static_cast<int>(sizeof(Candidate));
inline constexpr int kSharedHead = (static_cast<int>(sizeof(BlockShared)) + 127) / 128 * 128;

// The block's shared memory: always reached from here, so that the compiler sees which memory it is.
extern __shared__ __align__(128) char block_memory[];

__device__ __forceinline__ BlockShared& Shared() {
  return *reinterpret_cast<BlockShared*>(block_memory);
}
// [kWarps][kWarpEntries]
__device__ __forceinline__ Candidate* Lists() {
  return reinterpret_cast<Candidate*>(block_memory + kSharedHead);
}
__device__ __forceinline__ char* Stages() { return block_memory + kSharedHead + kListBytes; }

// Where a column's candidates are merged: a warp's stages.
__device__ __forceinline__ Candidate* MergedList(const Params& p, int column) {
  return reinterpret_cast<Candidate*>(Stages()) + column * p.list_capacity;
}

// Rows of values on their way to shared memory while weights are found. The search's lists are free by then.
__device__ __forceinline__ char* ValueRows() { return reinterpret_cast<char*>(Lists()); }

__device__ __forceinline__ uint32_t AddAcquireRelease(uint32_t* p, uint32_t n) {
  uint32_t v;
  asm volatile("atom.add.acq_rel.gpu.global.u32 %0, [%1], %2;"
               : "=r"(v)
               : "l"(p), "r"(n)
               : "memory");
  return v;
}

__device__ __forceinline__ uint32_t LoadAcquire(const uint32_t* p) {
  uint32_t v;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
  return v;
}

__device__ __forceinline__ uint64_t LoadAcquire(const uint64_t* p) {
  uint64_t v;
  asm volatile("ld.acquire.gpu.global.u64 %0, [%1];" : "=l"(v) : "l"(p) : "memory");
  return v;
}

__device__ __forceinline__ DecodeCounters* Counters(const Params& p, uint32_t offset) {
  return reinterpret_cast<DecodeCounters*>(reinterpret_cast<char*>(p.header) + offset);
}

__device__ __forceinline__ const DecodeGroup* Groups(const Params& p) {
  return reinterpret_cast<const DecodeGroup*>(reinterpret_cast<const char*>(p.header) +
                                              p.header->groups_offset);
}

__device__ __forceinline__ int FirstPage(const DecodeGroup& g) { return g.first_key / kPageTokens; }
__device__ __forceinline__ int NumPages(const DecodeGroup& g) {
  return (g.end_key + kPageTokens - 1) / kPageTokens - FirstPage(g);
}

// Search groups decided on, all of them, and how many of them are wide.
__device__ __forceinline__ bool AllDecided(uint64_t progress, int searches) {
  return static_cast<uint32_t>(progress) == static_cast<uint32_t>(searches);
}
__device__ __forceinline__ uint32_t NumWide(uint64_t progress) {
  return static_cast<uint32_t>(progress >> 32);
}

// Counts the block as one that won't look at the counters again; the last one sets them back. By one thread.
__device__ __forceinline__ void LeaveLaunch(const Params& p, bool wide) {
  DecodeHeader* header = p.header;
  if (atomicInc(&header->exited, gridDim.x - 1) != gridDim.x - 1) return;
  header->progress = 0;
  header->barrier = 0;
  if (!wide) return;
  for (int i = 0; i < header->num_groups; i++) {
    Counters(p, header->counters_offset)[i].wide = 0;
  }
}

// Keys of a page that the group's query sees.
__device__ __forceinline__ int VisibleKeys(const DecodeGroup& g, int page) {
  return max(0, min(g.end_key, (page + 1) * kPageTokens) - max(g.first_key, page * kPageTokens));
}

// One row of an entmax column.
__device__ __noinline__ void CountRow(AttentionStats* stats, int support, int attended,
                                      int iterations, float residual) {
  CountEntmaxRow(stats, support, iterations, residual);
  AddTo(&stats->blocks_attended, attended);
}

}  // namespace tauserve::cuda::decode

#endif  // TAUSERVE_KERNELS_CUDA_DECODE_BLOCK_CUH_
