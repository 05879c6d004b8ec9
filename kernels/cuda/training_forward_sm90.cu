#include <vector>

#include "kernels/check.h"
#include "kernels/cuda/allow_shared_bytes.h"
#include "kernels/cuda/cuda_check.h"
#include "kernels/cuda/current_device.h"
#include "kernels/cuda/keep_wide_rows.cuh"
#include "kernels/cuda/kernel_variant.h"
#include "kernels/cuda/prefill_launch.h"
#include "kernels/cuda/training_forward.h"
#include "kernels/cuda/training_tiles.cuh"
#include "kernels/cuda/workspace.h"

namespace tauserve::cuda {
namespace {

// Keys and values as the prefill kernel reads them: pages of 64 tokens, those of a sequence one behind the other.
template <typename Element>
struct Pages {
  TrainingTiles tiles;
  Element* keys;        // [num_key_tiles][num_kv_heads][kPageTokens][head_dim]
  Element* values;      // as keys
  int32_t* page_table;  // [num_key_tiles]: i at i
  Slice* slices;        // [num_sequences]
  int32_t* first_key;   // [num_sequences]
  void* prefill;
  size_t prefill_bytes;
  size_t bytes;
};
template <typename Element>
Pages<Element> PlacePages(const TrainingForwardArgs<Element>& args) {
  Pages<Element> pages = {};
  CountTiles(args, pages.tiles);
  const int64_t elements = static_cast<int64_t>(pages.tiles.num_key_tiles) * args.num_kv_heads *
                           kPageTokens * args.head_dim;
  Workspace workspace(args.workspace);
  pages.tiles.row_tiles = workspace.Take<int2>(pages.tiles.num_row_tiles);
  pages.tiles.key_tiles = workspace.Take<int2>(pages.tiles.num_key_tiles);
  pages.tiles.first_row_tile = workspace.Take<int32_t>(args.num_sequences);
  pages.keys = workspace.Take<Element>(elements);
  pages.values = workspace.Take<Element>(elements);
  pages.page_table = workspace.Take<int32_t>(pages.tiles.num_key_tiles);
  pages.slices = workspace.Take<Slice>(args.num_sequences);
  pages.first_key = workspace.Take<int32_t>(args.num_sequences);
  pages.prefill_bytes =
      PrefillSm90WorkspaceBytes(args.num_tokens, args.num_sequences, args.num_heads);
  pages.prefill = workspace.Take<char>(pages.prefill_bytes);
  pages.bytes = workspace.bytes();
  return pages;
}

constexpr int kPackThreads = 256;

// A thread block for a page of a KV head.
template <typename Element>
__global__ void __launch_bounds__(kPackThreads)
    PackPages(const Element* k, const Element* v, const TrainedSequence* sequences,
              int num_kv_heads, int head_dim, const __grid_constant__ Pages<Element> pages) {
  const int page = blockIdx.x, kv_head = blockIdx.y;
  const int2 at = pages.tiles.key_tiles[page];
  const TrainedSequence sequence = sequences[at.x];
  if (threadIdx.x == 0 && kv_head == 0) {
    pages.page_table[page] = page;
    if (at.y == 0) {
      pages.first_key[at.x] = sequence.first_key;
      pages.slices[at.x] = {sequence.first_token, sequence.num_tokens,
                            sequence.num_keys - sequence.num_tokens, page};
    }
  }
  const int chunks = head_dim / 8;
  const int there = min(kPageTokens, sequence.num_keys - at.y);
  const int64_t to = (static_cast<int64_t>(page) * num_kv_heads + kv_head) * kPageTokens;
  for (int i = threadIdx.x; i < kPageTokens * chunks; i += kPackThreads) {
    const int t = i / chunks, chunk = i % chunks;
    uint4 key = make_uint4(0, 0, 0, 0), value = key;
    if (t < there) {
      const int64_t from =
          (static_cast<int64_t>(sequence.first_key + at.y + t) * num_kv_heads + kv_head) *
              head_dim +
          chunk * 8;
      key = *reinterpret_cast<const uint4*>(k + from);
      value = *reinterpret_cast<const uint4*>(v + from);
    }
    const int64_t element = (to + t) * head_dim + chunk * 8;
    *reinterpret_cast<uint4*>(pages.keys + element) = key;
    *reinterpret_cast<uint4*>(pages.values + element) = value;
  }
}

template <typename Element, int kDim>
void LaunchKeepWideRows(const TrainingForwardArgs<Element>& args, const TrainingTiles& tiles) {
  constexpr int kBytes = WideRowKeeper<Element, kDim>::kSharedBytes;
  AllowSharedBytes<KeepWideRows<Element, kDim>>(kBytes);
  KeepWideRows<Element, kDim>
      <<<tiles.num_row_tiles * args.num_heads, kDenseThreads, kBytes, args.stream>>>(
          args, args.kept, args.q, args.k, tiles);
  CUDA_CHECK(cudaGetLastError());
}

}  // namespace

bool TrainingSupported() { return CurrentDevice().hopper; }

template <typename Element>
size_t TrainingForwardWorkspaceBytes(const TrainingForwardArgs<Element>& args) {
  TrainingForwardArgs<Element> shape = args;
  shape.workspace = nullptr;
  return PlacePages(shape).bytes;
}

template <typename Element>
void TrainingForward(const TrainingForwardArgs<Element>& args) {
  if (args.num_tokens == 0) return;
  TAUSERVE_CHECK(args.num_keys <= kMostKeptKeys, "keys of a batch");
  const Pages<Element> pages = PlacePages(args);
  TAUSERVE_CHECK(pages.bytes <= args.workspace_bytes, "workspace");
  if (args.kept.threshold) {
    CUDA_CHECK(cudaMemsetAsync(args.kept.used, 0, sizeof(*args.kept.used), args.stream));
  }
  ListTiles<<<args.num_sequences, kListTilesThreads, 0, args.stream>>>(args.sequences, pages.tiles);
  CUDA_CHECK(cudaGetLastError());
  const dim3 grid(pages.tiles.num_key_tiles, args.num_kv_heads);
  PackPages<<<grid, kPackThreads, 0, args.stream>>>(args.k, args.v, args.sequences,
                                                    args.num_kv_heads, args.head_dim, pages);
  CUDA_CHECK(cudaGetLastError());
  std::vector<Slice> slices(args.num_sequences);
  int first_page = 0;
  for (int s = 0; s < args.num_sequences; s++) {
    const TrainedSequence& sequence = args.host_sequences[s];
    slices[s] = {sequence.first_token, sequence.num_tokens, sequence.num_keys - sequence.num_tokens,
                 first_page};
    first_page += CeilDiv(sequence.num_keys, kPageTokens);
  }
  AttentionArgsOf<Element> attention;
  attention.q = args.q;
  attention.out = args.out;
  attention.q_stride = attention.out_stride = args.num_heads * args.head_dim;
  attention.keys = pages.keys;
  attention.values = pages.values;
  attention.num_pages = pages.tiles.num_key_tiles;
  attention.page_table = pages.page_table;
  attention.slices = pages.slices;
  attention.host_slices = slices.data();
  attention.num_slices = args.num_sequences;
  attention.num_rows = args.num_tokens;
  attention.heads = args.heads;
  attention.host_heads = args.host_heads;
  attention.num_heads = args.num_heads;
  attention.num_kv_heads = args.num_kv_heads;
  attention.head_dim = args.head_dim;
  attention.scale = args.scale;
  attention.sliding_window = args.sliding_window;
  attention.causal = args.causal;
  attention.kept = args.kept;
  attention.kept.first_key = pages.first_key;
  attention.workspace = pages.prefill;
  attention.workspace_bytes = pages.prefill_bytes;
  attention.stream = args.stream;
  TAUSERVE_CHECK(PrefillSm90Supports(attention), "head_dim or GPU");
  PrefillSm90(attention);
  if (!args.kept.threshold || args.kept.capacity == 0) return;
  WithHeadDim(args.head_dim,
              [&]<int kDim>() { LaunchKeepWideRows<Element, kDim>(args, pages.tiles); });
}

template size_t TrainingForwardWorkspaceBytes(const TrainingForwardArgs<__nv_bfloat16>&);
template size_t TrainingForwardWorkspaceBytes(const TrainingForwardArgs<__half>&);
template void TrainingForward(const TrainingForwardArgs<__nv_bfloat16>&);
template void TrainingForward(const TrainingForwardArgs<__half>&);

}  // namespace tauserve::cuda
