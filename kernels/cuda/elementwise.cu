#include <algorithm>

#include "kernels/cuda/activation.cuh"
#include "kernels/cuda/cuda_check.h"
#include "kernels/cuda/elementwise.h"
#include "kernels/cuda/overlapped_launch.h"

namespace tauserve::cuda {
namespace {

using bf16 = __nv_bfloat16;

// A matrix as kernels take it.
struct View {
  bf16* data;
  int64_t rows, cols, stride;
  __device__ bf16* row(int64_t r) const { return data + r * stride; }
};

View ViewOf(const Matrix& m) { return {static_cast<bf16*>(m.data), m.rows, m.cols, m.stride}; }

// Eight values at once, where rows begin at multiples of 16 bytes.
constexpr int kPack = 8;
struct alignas(16) Pack {
  bf16 value[kPack];
};

bool IsPacked(const Matrix& m, int64_t columns) {
  return reinterpret_cast<uintptr_t>(m.data) % sizeof(Pack) == 0 && m.stride % kPack == 0 &&
         columns % kPack == 0;
}

int Threads(int64_t items, int most = 256) {
  return static_cast<int>(std::clamp<int64_t>((items + 31) / 32 * 32, 32, most));
}

__global__ void GatherKernel(const bf16* table, int64_t table_stride, const int32_t* rows,
                             View out) {
  const int64_t r = blockIdx.x;
  const bf16* from = table + rows[r] * table_stride;
  for (int64_t c = threadIdx.x; c < out.cols; c += blockDim.x) out.row(r)[c] = from[c];
}

__device__ float SumOfBlock(float x) {
  __shared__ float of_warp[32];
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(~0u, x, offset);
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = x;
  __syncthreads();
  x = 0;
  for (int w = 0; w < blockDim.x / 32; w++) x += of_warp[w];
  return x;
}

template <int kWidth>
struct alignas(kWidth * sizeof(bf16)) Values {
  bf16 value[kWidth];
};

// One block a run. What a thread reads first it keeps; the second reading of the rest is from the cache.
template <int kWidth>
__global__ void RmsNormKernel(View in, const float* weight, int n, float epsilon, View out) {
  const bf16* from = in.row(blockIdx.x) + int64_t{blockIdx.y} * n;
  bf16* to = out.row(blockIdx.x) + int64_t{blockIdx.y} * n;
  const int begin = threadIdx.x * kWidth, step = blockDim.x * kWidth;
  float first_weight[kWidth] = {};
  if (begin < n) {
#pragma unroll
    for (int i = 0; i < kWidth; i++) first_weight[i] = weight[begin + i];
  }
  AllowLaterKernels();
  WaitForEarlierKernels();
  Values<kWidth> first = {};
  float squares = 0;
  for (int c = begin; c < n; c += step) {
    const Values<kWidth> x = *reinterpret_cast<const Values<kWidth>*>(from + c);
    if (c == begin) first = x;
#pragma unroll
    for (int i = 0; i < kWidth; i++) {
      const float f = __bfloat162float(x.value[i]);
      squares += f * f;
    }
  }
  const float inverse = rsqrtf(SumOfBlock(squares) / n + epsilon);
  for (int c = begin; c < n; c += step) {
    Values<kWidth> x = first;
    if (c > begin) x = *reinterpret_cast<const Values<kWidth>*>(from + c);
#pragma unroll
    for (int i = 0; i < kWidth; i++) {
      const float w = c == begin ? first_weight[i] : weight[c + i];
      x.value[i] = __float2bfloat16(__bfloat162float(x.value[i]) * inverse * w);
    }
    *reinterpret_cast<Values<kWidth>*>(to + c) = x;
  }
}

constexpr int kMaxRotary = 256;  // head_dim's limit
struct Frequencies {
  float inverse[kMaxRotary / 2];
};

__global__ void RopeTableKernel(const __grid_constant__ Frequencies f, int half, float factor,
                                const int32_t* positions, float* table) {
  const int64_t r = blockIdx.x;
  for (int d = threadIdx.x; d < half; d += blockDim.x) {
    // Positions reach millions: the angle needs more than a float.
    double sine, cosine;
    sincos(static_cast<double>(f.inverse[d]) * positions[r], &sine, &cosine);
    table[r * 2 * half + d] = static_cast<float>(cosine * factor);
    table[r * 2 * half + half + d] = static_cast<float>(sine * factor);
  }
}

__global__ void RopeKernel(const float* table, int half, int head_dim, View x) {
  AllowLaterKernels();
  WaitForEarlierKernels();
  const int64_t r = blockIdx.x;
  const float* cosines = table + r * 2 * half;
  const float* sines = cosines + half;
  const int i = blockIdx.y * blockDim.x + threadIdx.x;
  if (i >= static_cast<int>(x.cols / head_dim) * half) return;
  const int d = i % half;
  bf16* at = x.row(r) + i / half * head_dim + d;
  const float a = __bfloat162float(at[0]), b = __bfloat162float(at[half]);
  at[0] = __float2bfloat16(a * cosines[d] - b * sines[d]);
  at[half] = __float2bfloat16(b * cosines[d] + a * sines[d]);
}

template <Activation kAct, int kWidth>
__global__ void GatedActivationKernel(View gate_up, View out) {
  const int64_t c = (int64_t{blockIdx.y} * blockDim.x + threadIdx.x) * kWidth;
  AllowLaterKernels();
  WaitForEarlierKernels();
  if (c >= out.cols) return;
  const bf16* from = gate_up.row(blockIdx.x) + c;
  Values<kWidth> gate = *reinterpret_cast<const Values<kWidth>*>(from);
  const Values<kWidth> up = *reinterpret_cast<const Values<kWidth>*>(from + out.cols);
#pragma unroll
  for (int i = 0; i < kWidth; i++) {
    gate.value[i] = __float2bfloat16(Activated(kAct, __bfloat162float(gate.value[i])) *
                                     __bfloat162float(up.value[i]));
  }
  *reinterpret_cast<Values<kWidth>*>(out.row(blockIdx.x) + c) = gate;
}

template <Activation kAct>
void LaunchGated(Matrix gate_up, Matrix out, cudaStream_t stream) {
  const bool packed = IsPacked(gate_up, out.cols) && IsPacked(out, out.cols);
  const int64_t items = packed ? out.cols / kPack : out.cols;
  const int threads = Threads(items);
  const dim3 grid(out.rows, (items + threads - 1) / threads);
  if (packed) {
    LaunchOverlapped(GatedActivationKernel<kAct, kPack>, grid, threads, 0, stream, ViewOf(gate_up),
                     ViewOf(out));
  } else {
    LaunchOverlapped(GatedActivationKernel<kAct, 1>, grid, threads, 0, stream, ViewOf(gate_up),
                     ViewOf(out));
  }
}

struct ScaleConstants {
  QueryScaleSpec::Kind kind;
  int first_head;
  float delta, gamma_range;
  float beta[kMaxScaledHeads], gamma[kMaxScaledHeads];
};

__global__ void QueryScaleKernel(const __grid_constant__ ScaleConstants spec,
                                 const int32_t* positions, View projected, float* out,
                                 int num_heads, int64_t out_stride) {
  using Kind = QueryScaleSpec::Kind;
  const int64_t r = blockIdx.x;
  const float log_position = logf(positions[r] + 2.0f);
  const int n = num_heads - spec.first_head;
  for (int h = threadIdx.x; h < num_heads; h += blockDim.x) {
    const int i = h - spec.first_head;
    float scale = 1;
    if (i >= 0 && spec.kind != Kind::kNone) {
      float beta = spec.beta[i], gamma = spec.gamma[i];
      if (spec.kind == Kind::kAdaptive) {
        const float b = __bfloat162float(projected.row(r)[i]);
        beta = b > 20 ? b : log1pf(expf(b));
        gamma = spec.gamma_range * tanhf(__bfloat162float(projected.row(r)[n + i]));
      }
      scale = spec.delta + beta * powf(log_position, gamma);
    }
    out[r * out_stride + h] = scale;
  }
}

__global__ void ToFloatKernel(View in, float* out) {
  const int64_t r = blockIdx.x;
  for (int64_t c = threadIdx.x; c < in.cols; c += blockDim.x) {
    out[r * in.cols + c] = __bfloat162float(in.row(r)[c]);
  }
}

}  // namespace

bool HasDeviceCode() {
  cudaFuncAttributes attributes;
  return cudaFuncGetAttributes(&attributes, GatherKernel) == cudaSuccess;
}

void GatherRowsOf(const bf16* table, int64_t table_stride, const int32_t* rows, Matrix out,
                  cudaStream_t stream) {
  if (out.rows == 0) return;
  GatherKernel<<<out.rows, Threads(out.cols), 0, stream>>>(table, table_stride, rows, ViewOf(out));
  CUDA_CHECK(cudaGetLastError());
}

void RmsNormRows(Matrix in, const float* weight, int n, float epsilon, Matrix out,
                 cudaStream_t stream) {
  if (in.rows == 0) return;
  const dim3 grid(in.rows, in.cols / n);
  if (IsPacked(in, n) && IsPacked(out, n)) {
    LaunchOverlapped(RmsNormKernel<kPack>, grid, Threads(n / kPack, 1024), 0, stream, ViewOf(in),
                     weight, n, epsilon, ViewOf(out));
  } else {
    LaunchOverlapped(RmsNormKernel<1>, grid, Threads(n), 0, stream, ViewOf(in), weight, n, epsilon,
                     ViewOf(out));
  }
}

void MakeRopeTable(const RopeSpec& spec, const int32_t* positions, int64_t rows, float* table,
                   cudaStream_t stream) {
  const int half = spec.rotary_dim / 2;
  Frequencies f = {};
  std::copy_n(spec.inverse_frequency.begin(), half, f.inverse);
  RopeTableKernel<<<rows, Threads(half), 0, stream>>>(f, half, spec.attention_factor, positions,
                                                      table);
  CUDA_CHECK(cudaGetLastError());
}

void RopeRows(const float* table, int rotary_dim, int head_dim, Matrix x, cudaStream_t stream) {
  if (x.rows == 0) return;
  const int half = rotary_dim / 2;
  const int64_t items = x.cols / head_dim * half;
  const int threads = Threads(items);
  const dim3 grid(x.rows, (items + threads - 1) / threads);
  LaunchOverlapped(RopeKernel, grid, threads, 0, stream, table, half, head_dim, ViewOf(x));
}

void GatedActivationRows(Activation act, Matrix gate_up, Matrix out, cudaStream_t stream) {
  if (out.rows == 0) return;
  if (act == Activation::kSilu) {
    LaunchGated<Activation::kSilu>(gate_up, out, stream);
  } else {
    LaunchGated<Activation::kGeluTanh>(gate_up, out, stream);
  }
}

void QueryScaleRows(const QueryScaleSpec& spec, const int32_t* positions, Matrix projected,
                    Matrix out, cudaStream_t stream) {
  if (out.rows == 0) return;
  using Kind = QueryScaleSpec::Kind;
  ScaleConstants c = {};
  c.kind = spec.kind;
  c.first_head = spec.first_head;
  c.delta = spec.kind == Kind::kLogarithmic ? 0 : spec.delta;
  c.gamma_range = spec.gamma_range;
  std::fill_n(c.gamma, kMaxScaledHeads, 1.0f);
  if (spec.kind != Kind::kAdaptive) std::copy(spec.beta.begin(), spec.beta.end(), c.beta);
  if (spec.kind == Kind::kLearned) std::copy(spec.gamma.begin(), spec.gamma.end(), c.gamma);
  const int num_heads = static_cast<int>(out.cols);
  QueryScaleKernel<<<out.rows, Threads(num_heads), 0, stream>>>(
      c, positions, ViewOf(projected), static_cast<float*>(out.data), num_heads, out.stride);
  CUDA_CHECK(cudaGetLastError());
}

void ToFloatRows(Matrix in, float* out, cudaStream_t stream) {
  if (in.rows == 0) return;
  ToFloatKernel<<<in.rows, Threads(in.cols), 0, stream>>>(ViewOf(in), out);
  CUDA_CHECK(cudaGetLastError());
}

}  // namespace tauserve::cuda
