// The decode kernel of one head_dim: search or softmax pieces, merges, wide groups.
#ifndef TAUSERVE_KERNELS_CUDA_DECODE_KERNEL_CUH_
#define TAUSERVE_KERNELS_CUDA_DECODE_KERNEL_CUH_

#include "kernels/cuda/decode_merge.cuh"
#include "kernels/cuda/decode_search.cuh"
#include "kernels/cuda/decode_softmax.cuh"
#include "kernels/cuda/decode_wide.cuh"

namespace tauserve::cuda::decode {

// Whether this block's piece is the group's last to be done; the block then sees all slots of the group.
__device__ __forceinline__ bool LastToArrive(const Params& p) {
  BlockShared& shared = Shared();
  const int pieces = shared.piece.group.num_pieces;
  __syncthreads();
  if (pieces == 1) return true;
  if (threadIdx.x == 0) {  // for the whole block: its writes came before the barrier
    uint32_t* arrived = &Counters(p, shared.piece.counters_offset)->arrived;
    const bool last = AddAcquireRelease(arrived, 1) == static_cast<uint32_t>(pieces - 1);
    if (last) *arrived = 0;
    shared.flag = last;
  }
  __syncthreads();
  return shared.flag != 0;
}

// After a block's pieces: groups that outgrew their lists need every block.
template <int kHeadDim>
__device__ __forceinline__ void FinishLaunch(const Params& p) {
  BlockShared& shared = Shared();
  const int searches = p.header->num_search_groups;
  if (searches == 0) return;
  __syncthreads();
  if (shared.left) return;
  if (threadIdx.x == 0) {
    uint64_t progress;
    do {
      progress = LoadAcquire(&p.header->progress);
    } while (!AllDecided(progress, searches));
    shared.flag = NumWide(progress) > 0;
  }
  __syncthreads();
  const bool wide = shared.flag != 0;
  if (wide) {
    FinishWideGroups<kHeadDim>(p);
    __syncthreads();
  }
  if (threadIdx.x == 0) LeaveLaunch(p, wide);
}

template <int kHeadDim, bool kShadow>
__global__ void __launch_bounds__(kThreads, 1) DecodeKernel(const __grid_constant__ Params p) {
  using Shape = Tile<kHeadDim, kShadow>;
  BlockShared& shared = Shared();
  const int warp = threadIdx.x >> 5;
  WarpStages stages{Stages() + warp * p.num_stages * Shape::kBytes, shared.barrier[warp],
                    shared.label[warp], p.num_stages};
  const int lane = threadIdx.x & 31;
  static_assert(kMaxStages + kRowSlots < 32);
  if (lane < kMaxStages) {
    InitBarrier(&shared.barrier[warp][lane]);
  } else if (lane < kMaxStages + kRowSlots) {
    InitBarrier(&shared.row_barrier[warp][lane - kMaxStages]);
  } else if (lane == 31) {
    shared.row_parity[warp] = 0;
    shared.left = 0;
  }
  constexpr int kWords = sizeof(DecodePiece) / sizeof(int);
  static_assert(kWords <= 32);
  for (int at = blockIdx.x; at >= 0; at = shared.piece.next) {
    const int word =
        threadIdx.x < kWords ? reinterpret_cast<const int*>(p.pieces + at)[threadIdx.x] : 0;
    __syncthreads();  // the merge before is done with shared memory
    if (threadIdx.x < kWords) reinterpret_cast<int*>(&shared.piece)[threadIdx.x] = word;
    FenceBeforeCopies();
    __syncthreads();
    const DecodePiece& piece = shared.piece;
    if (piece.end_page <= piece.first_page) continue;
    if (piece.group.softmax) {
      SoftmaxPiece<kHeadDim>(p, piece);
      if (LastToArrive(p)) MergeSoftmax<kHeadDim>(p);
    } else {
      SearchPiece<kHeadDim, kShadow>(p, piece, stages);
      if (LastToArrive(p)) MergeSearch<kHeadDim, kShadow>(p, piece);
    }
  }
  FinishLaunch<kHeadDim>(p);
}

}  // namespace tauserve::cuda::decode

#endif  // TAUSERVE_KERNELS_CUDA_DECODE_KERNEL_CUH_
