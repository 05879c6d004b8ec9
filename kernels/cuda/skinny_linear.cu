#include <algorithm>
#include <array>
#include <atomic>

#include "kernels/check.h"
#include "kernels/cuda/cuda_check.h"
#include "kernels/cuda/skinny_linear.h"
#include "kernels/cuda/skinny_linear_kernel.cuh"

namespace tauserve::cuda {
namespace {

using skinny::kThreads;
using skinny::kTileRows;
using skinny::kUnitInputs;
using skinny::kWarps;
using skinny::Params;

constexpr int kMaxDevices = 64;
// Fewer units aren't worth sharing a tile: their copies are all on the way at once.
constexpr int kFewestUnits = 6;

struct Device {
  int multiprocessors = 0;
  int shared_bytes = 0;  // that a block can have
};

const Device& CurrentDevice() {
  static std::array<Device, kMaxDevices> devices = [] {
    std::array<Device, kMaxDevices> all;
    int count = 0;
    CUDA_CHECK(cudaGetDeviceCount(&count));
    for (int i = 0; i < std::min(count, kMaxDevices); i++) {
      CUDA_CHECK(
          cudaDeviceGetAttribute(&all[i].multiprocessors, cudaDevAttrMultiProcessorCount, i));
      CUDA_CHECK(
          cudaDeviceGetAttribute(&all[i].shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, i));
    }
    return all;
  }();
  int device = 0;
  CUDA_CHECK(cudaGetDevice(&device));
  return devices[device];
}

// Two sets of stages: for 227 KB of shared memory and for 163 KB.
template <int kTiles>
constexpr int kManyStages = kTiles == 8 ? 5 : 6;
template <int kTiles>
constexpr int kFewStages = kTiles == 8 ? 3 : 4;

template <int kTiles, int kStages>
void Launch(const Params& p, int blocks, cudaStream_t stream) {
  constexpr int kShared = skinny::SharedBytes<kTiles, kStages>();
  const auto kernel = skinny::SkinnyLinearKernel<kTiles, kStages>;
  static std::array<std::atomic<bool>, kMaxDevices> is_set_up{};
  int device = 0;
  CUDA_CHECK(cudaGetDevice(&device));
  if (!is_set_up[device]) {
    CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared));
    is_set_up[device] = true;
  }
  LaunchOverlapped(kernel, blocks, kThreads, kShared, stream, p);
}

template <int kTiles>
void Launch(const Params& p, int blocks, cudaStream_t stream) {
  constexpr int kMany = kManyStages<kTiles>;
  if (skinny::SharedBytes<kTiles, kMany>() <= CurrentDevice().shared_bytes) {
    Launch<kTiles, kMany>(p, blocks, stream);
  } else {
    Launch<kTiles, kFewStages<kTiles>>(p, blocks, stream);
  }
}

bool IsAligned(const void* data) { return reinterpret_cast<uintptr_t>(data) % 16 == 0; }

}  // namespace

bool SkinnyLinearSupports(const LinearArgs& args) {
  const int64_t units = (args.out_features / kTileRows + 1) * (args.in.cols / kUnitInputs + 1);
  return args.in.rows >= 1 && args.in.rows <= kMaxSkinnyRows && args.in.cols % 8 == 0 &&
         args.in.stride % 8 == 0 && IsAligned(args.in.data) && IsAligned(args.weight) &&
         units < INT32_MAX && args.out_features < INT32_MAX / 2 &&
         CurrentDevice().shared_bytes >= skinny::SharedBytes<8, kFewStages<8>>();
}

size_t SkinnyLinearWorkspaceBytes() {
  const size_t blocks = CurrentDevice().multiprocessors;
  return blocks * kWarps * sizeof(int) + 256 +
         blocks * 2 * kTileRows * kMaxSkinnyRows * sizeof(float);
}

void SkinnyLinear(const LinearArgs& args, void* workspace, cudaStream_t stream) {
  TAUSERVE_CHECK(SkinnyLinearSupports(args), "a product of few rows");
  TAUSERVE_CHECK(!args.gated || args.out_features % 2 == 0, "as many gates as they multiply");
  const int sms = CurrentDevice().multiprocessors;
  Params p = {};
  p.weight = args.weight;
  p.in = args.in.cols;
  p.gated = args.gated;
  p.features = static_cast<int>(args.gated ? args.out_features / 2 : args.out_features);
  p.tile_features = args.gated ? kTileRows / 2 : kTileRows;
  p.high_row = args.gated ? p.features : 8;
  TAUSERVE_CHECK(args.out.rows == args.in.rows && args.out.cols == p.features, "shapes");
  p.x = static_cast<const skinny::bf16*>(args.in.data);
  p.x_stride = args.in.stride;
  p.rows = static_cast<int>(args.in.rows);
  p.out = args.out.data;
  p.out_stride = args.out.stride;
  p.bias = args.float_bias;
  p.add = args.add;
  p.float_out = args.out_type == DataType::kFloat32;
  p.activation = args.activation;
  const int tiles = (p.features + p.tile_features - 1) / p.tile_features;
  p.tile_units = static_cast<int>((p.in + kUnitInputs - 1) / kUnitInputs);
  p.units = tiles * p.tile_units;
  const int blocks = std::min(sms, std::max(tiles, (p.units + kFewestUnits - 1) / kFewestUnits));
  p.arrivals = static_cast<int*>(workspace);
  const size_t head = (sms * kWarps * sizeof(int) + 255) / 256 * 256;
  p.partials = reinterpret_cast<float4*>(static_cast<char*>(workspace) + head);
  const int batch_tiles = (p.rows + 7) / 8;
  if (batch_tiles <= 1) {
    Launch<1>(p, blocks, stream);
  } else if (batch_tiles <= 2) {
    Launch<2>(p, blocks, stream);
  } else if (batch_tiles <= 4) {
    Launch<4>(p, blocks, stream);
  } else {
    Launch<8>(p, blocks, stream);
  }
}

}  // namespace tauserve::cuda
