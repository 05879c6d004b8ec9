// Packed sequences in tiles of 64 tokens or keys: which sequence a tile is of.
#ifndef TAUSERVE_KERNELS_CUDA_TRAINING_TILES_CUH_
#define TAUSERVE_KERNELS_CUDA_TRAINING_TILES_CUH_

#include "kernels/cuda/prefill_plan.h"
#include "kernels/cuda/training_batch.h"

namespace tauserve::cuda {

inline constexpr int kTrainingTile = 64;
static_assert(kTrainingTile == kPageTokens);

// Device memory. A tile is its sequence and its first token or key there.
struct TrainingTiles {
  int num_row_tiles;
  int num_key_tiles;
  int2* row_tiles;          // [num_row_tiles]
  int2* key_tiles;          // [num_key_tiles]
  int32_t* first_row_tile;  // [num_sequences]
};

inline void CountTiles(const TrainingBatch& batch, TrainingTiles& tiles) {
  tiles.num_row_tiles = tiles.num_key_tiles = 0;
  for (int s = 0; s < batch.num_sequences; s++) {
    tiles.num_row_tiles += CeilDiv(batch.host_sequences[s].num_tokens, kTrainingTile);
    tiles.num_key_tiles += CeilDiv(batch.host_sequences[s].num_keys, kTrainingTile);
  }
}

inline constexpr int kListTilesThreads = 128;

// A thread block a sequence.
static __global__ void __launch_bounds__(kListTilesThreads)
    ListTiles(const TrainedSequence* sequences, const __grid_constant__ TrainingTiles tiles) {
  __shared__ int before[2];
  if (threadIdx.x < 2) before[threadIdx.x] = 0;
  __syncthreads();
  int row_tiles = 0, key_tiles = 0;
  const int s = blockIdx.x;
  for (int i = threadIdx.x; i < s; i += kListTilesThreads) {
    row_tiles += CeilDiv(sequences[i].num_tokens, kTrainingTile);
    key_tiles += CeilDiv(sequences[i].num_keys, kTrainingTile);
  }
  atomicAdd(&before[0], row_tiles);
  atomicAdd(&before[1], key_tiles);
  __syncthreads();
  if (threadIdx.x == 0) tiles.first_row_tile[s] = before[0];
  const TrainedSequence sequence = sequences[s];
  for (int t = threadIdx.x; t * kTrainingTile < sequence.num_tokens; t += kListTilesThreads) {
    tiles.row_tiles[before[0] + t] = make_int2(s, t * kTrainingTile);
  }
  for (int t = threadIdx.x; t * kTrainingTile < sequence.num_keys; t += kListTilesThreads) {
    tiles.key_tiles[before[1] + t] = make_int2(s, t * kTrainingTile);
  }
}

}  // namespace tauserve::cuda

#endif  // TAUSERVE_KERNELS_CUDA_TRAINING_TILES_CUH_
