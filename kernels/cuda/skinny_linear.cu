#include <algorithm>
#include <array>

#include "kernels/check.h"
#include "kernels/cuda/allow_shared_bytes.h"
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

// Sharing a tile costs about as long as a block takes for so many units that nothing else competes with.
constexpr int kFewestUnits = 8;

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

constexpr int kManyStages = 6;  // for 227 KB of shared memory
constexpr int kFewStages = 4;   // for 163 KB

template <int kTiles, int kStages>
void Launch(const Params& p, int blocks, cudaStream_t stream) {
  constexpr int kShared = skinny::SharedBytes<kTiles, kStages>();
  AllowSharedBytes<skinny::SkinnyLinearKernel<kTiles, kStages>>(kShared);
  LaunchOverlapped(skinny::SkinnyLinearKernel<kTiles, kStages>, blocks, kThreads, kShared, stream,
                   p);
}

template <int kTiles>
void Launch(const Params& p, int blocks, cudaStream_t stream) {
  if (skinny::SharedBytes<kTiles, kManyStages>() <= CurrentDevice().shared_bytes) {
    Launch<kTiles, kManyStages>(p, blocks, stream);
  } else {
    Launch<kTiles, kFewStages>(p, blocks, stream);
  }
}

bool IsAligned(const void* data) { return reinterpret_cast<uintptr_t>(data) % 16 == 0; }

}  // namespace

bool SkinnyLinearSupports(const LinearArgs& args) {
  const int64_t units = (args.out_features / kTileRows + 1) * (args.in.cols / kUnitInputs + 1);
  return args.in.rows >= 1 && args.in.rows <= kMaxSkinnyRows && args.in.cols % 8 == 0 &&
         args.in.stride % 8 == 0 && IsAligned(args.in.data) && IsAligned(args.weight) &&
         units < INT32_MAX && args.out_features < INT32_MAX / 2 &&
         CurrentDevice().shared_bytes >= skinny::SharedBytes<kMaxSkinnyRows / 8, kFewStages>();
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
  const int units = tiles * p.tile_units;
  const int most = std::min(sms, std::max(tiles, (units + kFewestUnits - 1) / kFewestUnits));
  // No more blocks than make the longest ones shorter: even shares cut tiles in fewer places.
  const int longest = (units + most - 1) / most;
  const int blocks = (units + longest - 1) / longest;
  p.block_units = units / blocks;
  p.long_blocks = units % blocks;
  p.arrivals = static_cast<int*>(workspace);
  const size_t head = (sms * kWarps * sizeof(int) + 255) / 256 * 256;
  p.partials = reinterpret_cast<float4*>(static_cast<char*>(workspace) + head);
  static_assert(kMaxSkinnyRows == 16);
  if (p.rows <= 8) {
    Launch<1>(p, blocks, stream);
  } else {
    Launch<2>(p, blocks, stream);
  }
}

}  // namespace tauserve::cuda
