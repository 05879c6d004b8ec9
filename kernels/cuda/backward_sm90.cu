#include <algorithm>
#include <cub/device/device_scan.cuh>
#include <cub/device/device_segmented_sort.cuh>
#include <cuda/std/functional>

#include "kernels/check.h"
#include "kernels/cuda/backward_dense.h"
#include "kernels/cuda/backward_lists.cuh"
#include "kernels/cuda/cuda_check.h"
#include "kernels/cuda/current_device.h"
#include "kernels/cuda/scored_rows.cuh"
#include "kernels/cuda/workspace.h"

namespace tauserve::cuda {
namespace {

size_t ScanBytes(int count) {
  size_t bytes = 0;
  CUDA_CHECK(cub::DeviceScan::ExclusiveScan(nullptr, bytes, static_cast<const int32_t*>(nullptr),
                                            static_cast<int64_t*>(nullptr), ::cuda::std::plus<>{},
                                            int64_t{0}, count));
  return bytes;
}
size_t SortBytes(int64_t entries, int columns) {
  size_t bytes = 0;
  const int64_t* offsets = nullptr;
  CUDA_CHECK(cub::DeviceSegmentedSort::SortKeys(nullptr, bytes, static_cast<uint64_t*>(nullptr),
                                                static_cast<uint64_t*>(nullptr), entries, columns,
                                                offsets, offsets));
  return bytes;
}

// The parameters that point into the workspace, and what CUB needs of it.
template <typename Element>
struct Plan {
  BackwardParams<Element> params;
  void* scan;
  size_t scan_bytes;
  void* sort;
  size_t sort_bytes;
  size_t zeroed;  // bytes at the beginning that must be zero
  size_t bytes;
};
template <typename Element>
Plan<Element> MakePlan(const BackwardArgs<Element>& args) {
  Plan<Element> plan = {};
  BackwardParams<Element>& p = plan.params;
  p.args = args;
  p.group = args.num_heads / args.num_kv_heads;
  p.num_rows = args.num_tokens * args.num_heads;
  p.num_columns = args.num_keys * args.num_kv_heads;
  CountTiles(args, p.tiles);
  int most_keys = 0;
  for (int s = 0; s < args.num_sequences; s++) {
    most_keys = std::max(most_keys, args.host_sequences[s].num_keys);
  }
  p.live_words = std::min(kMaxLiveWords, CeilDiv(CeilDiv(most_keys, kTrainingTile), 32));
  const int64_t tiles = static_cast<int64_t>(p.tiles.num_row_tiles) * args.num_heads;
  const int64_t capacity = args.kept.capacity;

  Workspace workspace(args.workspace);
  p.column_count = workspace.Take<int32_t>(p.num_columns + 1);
  p.num_pieces = workspace.Take<int32_t>(1);
  p.num_long_rows = workspace.Take<int32_t>(1);
  p.any_dense = workspace.Take<int32_t>(1);
  p.dense_row_tiles = workspace.Take<int32_t>(tiles);
  if constexpr (kIsFloat16<Element>) p.gradient_bound = workspace.Take<float>(tiles);
  plan.zeroed = workspace.bytes();
  p.column_first = workspace.Take<int64_t>(p.num_columns + 1);
  p.long_rows = workspace.Take<int32_t>(p.num_rows);
  // A column in pieces has more than kLongColumn entries: at most two pieces for as many.
  const int64_t pieces = capacity * 2 / kLongColumn + 1;
  p.pieces = workspace.Take<ColumnPiece>(pieces);
  p.partial = workspace.Take<float>(pieces * 2 * args.head_dim);
  p.tiles.row_tiles = workspace.Take<int2>(p.tiles.num_row_tiles);
  p.tiles.key_tiles = workspace.Take<int2>(p.tiles.num_key_tiles);
  p.tiles.first_row_tile = workspace.Take<int32_t>(args.num_sequences);
  p.live = workspace.Take<uint32_t>(tiles * p.live_words);
  p.mean = workspace.Take<float>(p.num_rows);
  p.place = workspace.Take<int32_t>(capacity);
  p.d_weight = workspace.Take<float>(capacity);
  p.columns = p.unsorted_columns = workspace.Take<uint64_t>(capacity);
  plan.scan_bytes = ScanBytes(p.num_columns + 1);
  plan.scan = workspace.Take<char>(plan.scan_bytes);
  if (args.deterministic) {
    p.columns = workspace.Take<uint64_t>(capacity);
    plan.sort_bytes = SortBytes(capacity, p.num_columns);
    plan.sort = workspace.Take<char>(plan.sort_bytes);
  }
  plan.bytes = workspace.bytes();
  return plan;
}

template <typename Element, int kDim, entmax::Form kForm>
void LaunchLists(Plan<Element>& plan) {
  const BackwardParams<Element>& p = plan.params;
  const cudaStream_t stream = p.args.stream;
  const int rows = CeilDiv(p.num_rows, kListThreads / 32);
  CountColumns<<<rows, kListThreads, 0, stream>>>(p);
  CUDA_CHECK(cudaGetLastError());
  CUDA_CHECK(cub::DeviceScan::ExclusiveScan(plan.scan, plan.scan_bytes, p.column_count,
                                            p.column_first, ::cuda::std::plus<>{}, int64_t{0},
                                            p.num_columns + 1, stream));
  BackwardRows<Element, kDim, kForm><<<rows, kListThreads, 0, stream>>>(p);
  CUDA_CHECK(cudaGetLastError());
  BackwardLongRows<Element, kDim, kForm>
      <<<4 * CurrentDevice().multiprocessors, kLongRowThreads, 0, stream>>>(p);
  CUDA_CHECK(cudaGetLastError());
  if (p.args.deterministic) {
    CUDA_CHECK(cub::DeviceSegmentedSort::SortKeys(plan.sort, plan.sort_bytes, p.unsorted_columns,
                                                  p.columns, p.args.kept.capacity, p.num_columns,
                                                  p.column_first, p.column_first + 1, stream));
  }
  BackwardColumns<Element, kDim>
      <<<CeilDiv(p.num_columns, kListThreads / 32), kListThreads, 0, stream>>>(p);
  CUDA_CHECK(cudaGetLastError());
  BackwardLongColumns<Element, kDim>
      <<<8 * CurrentDevice().multiprocessors, kListThreads, 0, stream>>>(p);
  CUDA_CHECK(cudaGetLastError());
}

}  // namespace

template <typename Element>
size_t BackwardWorkspaceBytes(const BackwardArgs<Element>& args) {
  BackwardArgs<Element> shape = args;
  shape.workspace = nullptr;
  return MakePlan(shape).bytes;
}

template <typename Element>
void AttentionBackward(const BackwardArgs<Element>& args) {
  if (args.num_tokens == 0 || args.num_keys == 0) return;
  Plan<Element> plan = MakePlan(args);
  TAUSERVE_CHECK(plan.bytes <= args.workspace_bytes, "workspace");
  CUDA_CHECK(cudaMemsetAsync(args.workspace, 0, plan.zeroed, args.stream));
  ListTiles<<<args.num_sequences, kListTilesThreads, 0, args.stream>>>(args.sequences,
                                                                       plan.params.tiles);
  CUDA_CHECK(cudaGetLastError());
  WithBackwardForm(
      args, [&]<int kDim, entmax::Form kForm>() { LaunchLists<Element, kDim, kForm>(plan); });
  BackwardDense(plan.params);
}

template size_t BackwardWorkspaceBytes(const BackwardArgs<__nv_bfloat16>&);
template size_t BackwardWorkspaceBytes(const BackwardArgs<__half>&);
template void AttentionBackward(const BackwardArgs<__nv_bfloat16>&);
template void AttentionBackward(const BackwardArgs<__half>&);

}  // namespace tauserve::cuda
