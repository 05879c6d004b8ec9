// The decode kernel of one head_dim: search or softmax pieces, merges, wide groups.
#ifndef TAUSERVE_KERNELS_CUDA_DECODE_KERNEL_CUH_
#define TAUSERVE_KERNELS_CUDA_DECODE_KERNEL_CUH_

#include "kernels/cuda/decode_dense.cuh"
#include "kernels/cuda/decode_merge.cuh"
#include "kernels/cuda/decode_search.cuh"
#include "kernels/cuda/decode_wide.cuh"

namespace tauserve::cuda::decode {

// Whether this block's piece is the group's last to be done; the block then sees all slots of the group.
__device__ __forceinline__ bool LastToArrive(const Params& p, const DecodePiece& piece,
                                             BlockShared& shared) {
  const int pieces = shared.group.num_pieces;
  if (pieces == 1) {
    __syncthreads();
    return true;
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();  // for the whole block: its writes came before the barrier
    uint32_t* arrived = &Counters(p, piece.counters_offset)->arrived;
    const bool last = atomicAdd(arrived, 1u) == static_cast<uint32_t>(pieces - 1);
    if (last) *arrived = 0;
    __threadfence();
    shared.flag = last;
  }
  __syncthreads();
  return shared.flag != 0;
}

// After a block's pieces: groups that outgrew their lists need every block.
template <int kHeadDim>
__device__ __forceinline__ void FinishLaunch(const Params& p, Block& block) {
  BlockShared& shared = block.shared;
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
    FinishWideGroups<kHeadDim>(p, block);
    __syncthreads();
  }
  if (threadIdx.x == 0) LeaveLaunch(p, wide);
}

template <int kHeadDim, bool kShadow>
__global__ void __launch_bounds__(kThreads, 1) DecodeKernel(const __grid_constant__ Params p) {
  using Shape = Tile<kHeadDim, kShadow>;
  extern __shared__ __align__(128) char memory[];
  BlockShared& shared = *reinterpret_cast<BlockShared*>(memory);
  Block block{shared, reinterpret_cast<Candidate*>(memory + kSharedHead),
              memory + kSharedHead + kListBytes,
              p.num_stages * Shape::kBytes / static_cast<int>(sizeof(Candidate))};
  const int warp = threadIdx.x >> 5;
  WarpStages stages{block.stages + warp * p.num_stages * Shape::kBytes, shared.barrier[warp],
                    shared.label[warp], p.num_stages};
  if (threadIdx.x == 0) shared.left = 0;
  if ((threadIdx.x & 31) == 0) {
#pragma unroll 1
    for (int s = 0; s < p.num_stages; s++) InitBarrier(&shared.barrier[warp][s]);
  }
  for (int at = blockIdx.x; at >= 0;) {
    const DecodePiece& piece = p.pieces[at];
    at = piece.next;
    if (piece.end_page <= piece.first_page) continue;
    __syncthreads();  // the merge before is done with shared memory
    constexpr int kWords = sizeof(DecodeGroup) / sizeof(int);
    if (threadIdx.x < kWords) {
      reinterpret_cast<int*>(&shared.group)[threadIdx.x] =
          reinterpret_cast<const int*>(&piece.group)[threadIdx.x];
    }
#if __CUDA_ARCH__ >= 900
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");  // it wrote where copies go
#endif
    __syncthreads();
    if (shared.group.softmax) {
      SoftmaxPiece<kHeadDim>(p, piece, block);
      if (LastToArrive(p, piece, shared)) MergeSoftmax<kHeadDim>(p, block);
    } else {
      if (threadIdx.x < shared.group.num_columns) {
        shared.mul[threadIdx.x] = MakeColumn(p.args, shared.group, threadIdx.x).mul;
        shared.alpha[threadIdx.x] = p.args.heads[shared.group.head[threadIdx.x]].alpha;
      }
      SearchPiece<kHeadDim, kShadow>(p, piece, block, stages);
      if (LastToArrive(p, piece, shared)) {
        MergeSearch<kHeadDim, kShadow>(p, piece, block);
      }
    }
  }
  FinishLaunch<kHeadDim>(p, block);
}

}  // namespace tauserve::cuda::decode

#endif  // TAUSERVE_KERNELS_CUDA_DECODE_KERNEL_CUH_
