#include <algorithm>

#include "kernels/cuda/cuda_check.h"
#include "kernels/cuda/kv_cache.h"
#include "kernels/cuda/overlapped_launch.h"

namespace tauserve::cuda {
namespace {

constexpr int kMaxLaneValues = 8;  // head_dim / 32, rounded up
constexpr int kHeads = 4;          // of a block
constexpr float kInfinity = __builtin_huge_valf();

struct AppendViews {
  LayerKv kv;
  int num_kv_heads, head_dim;
  const __nv_bfloat16* keys;
  const __nv_bfloat16* values;
  int64_t key_stride, value_stride;
  const int32_t* row_slot;
};

__device__ float MaxOfWarp(float x) {
  for (int offset = 16; offset > 0; offset /= 2) x = fmaxf(x, __shfl_xor_sync(~0u, x, offset));
  return x;
}
__device__ float SumOfWarp(float x) {
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(~0u, x, offset);
  return x;
}

// An upper bound of a vector's norm from its squares' sum, which may have lost its last bits, or all of them, and its
// largest element. Infinite where an element is not a number.
__device__ float NormOf(float squares, float largest) {
  if (!(squares < kInfinity)) return kInfinity;
  return fmaxf(sqrtf(squares) * (1 + 1e-5f), largest * (1 + 1e-5f));
}

// One warp a row and KV head. The shadow's bound holds for any key: one that is too large for it gets codes of zero and
// an infinite rest.
__global__ void AppendKernel(const __grid_constant__ AppendViews a) {
  AllowLaterKernels();
  WaitForEarlierKernels();
  const int64_t row = blockIdx.x;
  const int head = blockIdx.y * kHeads + threadIdx.y, lane = threadIdx.x;
  if (head >= a.num_kv_heads) return;
  const int64_t page = a.row_slot[row] / kPageTokens, place = a.row_slot[row] % kPageTokens;
  const int64_t slot = (page * a.num_kv_heads + head) * kPageTokens + place;
  const __nv_bfloat16* key = a.keys + row * a.key_stride + head * a.head_dim;
  const __nv_bfloat16* value = a.values + row * a.value_stride + head * a.head_dim;
  float k[kMaxLaneValues];
  float largest = 0, key_squares = 0;
#pragma unroll
  for (int i = 0; i < kMaxLaneValues; i++) {
    const int d = lane + 32 * i;
    k[i] = 0;
    if (d >= a.head_dim) continue;
    a.kv.keys[slot * a.head_dim + d] = key[d];
    a.kv.values[slot * a.head_dim + d] = value[d];
    k[i] = __bfloat162float(key[d]);
    largest = fmaxf(largest, fabsf(k[i]));
    key_squares += k[i] * k[i];
  }
  const float key_norm = NormOf(SumOfWarp(key_squares), MaxOfWarp(largest));
  largest = MaxOfWarp(largest);
  __half scale = __float2half_ru(largest / 127);
  if (__hisinf(scale)) scale = __float2half(0.0f);
  const float step = __half2float(scale), inverse = step > 0 ? 1 / step : 0;
  float squares = 0, largest_rest = 0;
#pragma unroll
  for (int i = 0; i < kMaxLaneValues; i++) {
    const int d = lane + 32 * i;
    if (d >= a.head_dim) continue;
    const float code = fminf(fmaxf(rintf(k[i] * inverse), -127.0f), 127.0f);
    a.kv.shadow[slot * a.head_dim + d] = static_cast<int8_t>(code);
    const float rest = fmaf(-code, step, k[i]);
    squares += rest * rest;
    largest_rest = fmaxf(largest_rest, fabsf(rest));
  }
  // Squares may have lost their last bits, or all of them.
  const float rest_norm = NormOf(SumOfWarp(squares), MaxOfWarp(largest_rest));
  if (lane != 0) return;
  a.kv.shadow_scale[slot] = {scale, __float2half_ru(rest_norm)};
  // Norms are >= 0: their bits are ordered as they are.
  atomicMax(reinterpret_cast<int*>(a.kv.page_key_norms + page * a.num_kv_heads + head),
            __float_as_int(key_norm));
}

__global__ void BeginPagesKernel(float* norms, int64_t layer_blocks, int num_kv_heads,
                                 const int32_t* pages) {
  const int64_t block = int64_t{pages[blockIdx.x]} * num_kv_heads;
  for (int head = threadIdx.x; head < num_kv_heads; head += blockDim.x) {
    norms[blockIdx.y * layer_blocks + block + head] = 0;
  }
}

// Copies that travel as the kernel's argument.
constexpr int kMaxCopies = 64;
struct CopyViews {
  LayerKv kv;  // of the first layer
  int64_t layer_bytes, layer_blocks;
  int num_kv_heads, head_dim;
  PageCopy copies[kMaxCopies];
};

// Of an array that begins `offset` bytes behind `base`: what a page has of it, `bytes` long.
template <typename Word>
__device__ void CopyPart(void* base, int64_t offset, const PageCopy& copy, int64_t bytes) {
  char* array = static_cast<char*>(base) + offset;
  const Word* from = reinterpret_cast<const Word*>(array + copy.from * bytes);
  Word* to = reinterpret_cast<Word*>(array + copy.to * bytes);
  for (int64_t i = threadIdx.x; i < bytes / sizeof(Word); i += blockDim.x) to[i] = from[i];
}

// A block for each copy and layer. What a page has of an array lies in one piece, of whole words.
__global__ void CopyPagesKernel(const __grid_constant__ CopyViews a) {
  const PageCopy& copy = a.copies[blockIdx.x];
  const int64_t layer = blockIdx.y * a.layer_bytes;
  const int64_t slots = int64_t{a.num_kv_heads} * kPageTokens, elements = slots * a.head_dim;
  CopyPart<uint4>(a.kv.keys, layer, copy, elements * sizeof(*a.kv.keys));
  CopyPart<uint4>(a.kv.values, layer, copy, elements * sizeof(*a.kv.values));
  CopyPart<uint4>(a.kv.shadow, layer, copy, elements * sizeof(*a.kv.shadow));
  CopyPart<uint32_t>(a.kv.shadow_scale, layer, copy, slots * sizeof(*a.kv.shadow_scale));
  CopyPart<float>(a.kv.page_key_norms, blockIdx.y * a.layer_blocks * sizeof(float), copy,
                  a.num_kv_heads * sizeof(float));
}

}  // namespace

void CopyPagesOf(const KvLayout& layout, std::byte* data, absl::Span<const PageCopy> copies,
                 cudaStream_t stream) {
  if (layout.spec.num_layers == 0) return;
  CopyViews views;
  views.kv = layout.layer(data, 0);
  views.layer_bytes = layout.layer_bytes();
  views.layer_blocks = layout.blocks();
  views.num_kv_heads = layout.spec.num_kv_heads;
  views.head_dim = layout.spec.head_dim;
  while (!copies.empty()) {
    const size_t n = std::min<size_t>(copies.size(), kMaxCopies);
    std::copy_n(copies.begin(), n, views.copies);
    copies.remove_prefix(n);
    CopyPagesKernel<<<dim3(n, layout.spec.num_layers), 256, 0, stream>>>(views);
    CUDA_CHECK(cudaGetLastError());
  }
}

LayerKv KvLayout::layer(std::byte* data, int layer) const {
  // Largest alignments first.
  const int64_t n = slots() * spec.head_dim;
  LayerKv kv;
  kv.page_key_norms = norms(data) + layer * blocks();
  data += layer * layer_bytes();
  kv.keys = reinterpret_cast<__nv_bfloat16*>(data);
  kv.values = kv.keys + n;
  kv.shadow = reinterpret_cast<int8_t*>(kv.values + n);
  kv.shadow_scale = reinterpret_cast<ShadowScale*>(kv.shadow + n);
  return kv;
}

void AppendRows(const AppendArgs& args, cudaStream_t stream) {
  if (args.keys.rows == 0) return;
  const AppendViews views = {args.kv,
                             args.num_kv_heads,
                             args.head_dim,
                             static_cast<const __nv_bfloat16*>(args.keys.data),
                             static_cast<const __nv_bfloat16*>(args.values.data),
                             args.keys.stride,
                             args.values.stride,
                             args.row_slot};
  const dim3 grid(args.keys.rows, (args.num_kv_heads + kHeads - 1) / kHeads);
  LaunchOverlapped(AppendKernel, grid, dim3(32, kHeads), 0, stream, views);
}

void BeginPages(const KvLayout& layout, std::byte* data, const int32_t* pages, int num_pages,
                cudaStream_t stream) {
  if (num_pages == 0 || layout.spec.num_layers == 0) return;
  BeginPagesKernel<<<dim3(num_pages, layout.spec.num_layers), 32, 0, stream>>>(
      layout.norms(data), layout.blocks(), layout.spec.num_kv_heads, pages);
  CUDA_CHECK(cudaGetLastError());
}

}  // namespace tauserve::cuda
