#include <algorithm>
#include <array>
#include <atomic>

#include "kernels/check.h"
#include "kernels/cuda/cuda_check.h"
#include "kernels/cuda/decode.h"
#include "kernels/cuda/decode_kernel.cuh"

namespace tauserve::cuda {
namespace {

using decode::Params;

constexpr int kMaxDevices = 64;

// Where the parts of the workspace begin.
struct Layout {
  size_t partials;
  size_t slots;
  size_t scores;
  size_t end;

  Layout(const DecodePlan& plan, int head_dim) {
    partials = sizeof(decode::WideRow) * decode::kWideGroups * kDecodeColumns;
    slots = partials +
            sizeof(float) * (kMaxDecodeBlocks + decode::kWideGroups) * kDecodeColumns * head_dim;
    scores = slots + sizeof(decode::Slot) * plan.slot_capacity;
    end = scores + sizeof(float) * decode::kPageScores * plan.score_pages;
  }
};

int CurrentDevice() {
  int device = 0;
  CUDA_CHECK(cudaGetDevice(&device));
  return device;
}

// Dynamic shared memory that a block can have.
int SharedBytes(int device) {
  int bytes = 0;
  CUDA_CHECK(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  return bytes;
}

// Stages of a warp that fit beside the lists.
template <int kHeadDim, bool kShadow>
int NumStages(int shared_bytes) {
  constexpr int kStage = decode::kWarps * decode::Tile<kHeadDim, kShadow>::kBytes;
  const int room = shared_bytes - decode::kSharedHead - decode::kListBytes;
  return std::min(decode::kMaxStages, room / kStage);
}

template <int kHeadDim, bool kShadow>
void Launch(Params& p, int num_blocks) {
  static std::array<std::atomic<int>, kMaxDevices> stages{};  // 0: not set up
  const auto kernel = decode::DecodeKernel<kHeadDim, kShadow>;
  const int device = CurrentDevice();
  constexpr int kStage = decode::kWarps * decode::Tile<kHeadDim, kShadow>::kBytes;
  constexpr int kFixed = decode::kSharedHead + decode::kListBytes;
  if (stages[device] == 0) {
    const int n = NumStages<kHeadDim, kShadow>(SharedBytes(device));
    TAUSERVE_CHECK(n > 0, "DecodeSupports() refuses this device");
    CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    kFixed + n * kStage));
    stages[device] = n;
  }
  p.num_stages = stages[device];
  const int shared_bytes = kFixed + p.num_stages * kStage;
  kernel<<<num_blocks, decode::kThreads, shared_bytes, p.args.stream>>>(p);
  CUDA_CHECK(cudaGetLastError());
}

template <int kHeadDim>
void Launch(Params& p, const DecodePlan& plan) {
  if (plan.use_shadow) {
    Launch<kHeadDim, true>(p, plan.num_blocks);
  } else {
    Launch<kHeadDim, false>(p, plan.num_blocks);
  }
}

}  // namespace

bool DecodeSupports(const AttentionArgs& args) {
  const int d = args.head_dim;
  if (d != 64 && d != 96 && d != 128 && d != 256) return false;
  if (args.q_stride % 8 != 0 || args.num_heads > UINT16_MAX) return false;
  return NumStages<256, true>(SharedBytes(CurrentDevice())) > 0;
}

size_t DecodeWorkspaceBytes(const DecodePlan& plan, int head_dim) {
  return Layout(plan, head_dim).end;
}

void Decode(const AttentionArgs& args, const DecodePlan& plan, void* device_plan) {
  if (plan.empty()) return;
  const Layout layout(plan, args.head_dim);
  TAUSERVE_CHECK(layout.end <= args.workspace_bytes, "workspace of the decode kernel");
  TAUSERVE_CHECK(!plan.use_shadow || args.shadow != nullptr, "planned with a shadow");
  char* workspace = static_cast<char*>(args.workspace);
  Params p{};
  p.args = args;
  p.header = static_cast<DecodeHeader*>(device_plan);
  p.pieces = reinterpret_cast<const DecodePiece*>(static_cast<char*>(device_plan) +
                                                  DecodePlan::PiecesOffset());
  p.wide_rows = workspace;
  p.partials = reinterpret_cast<float*>(workspace + layout.partials);
  p.slots = reinterpret_cast<decode::Slot*>(workspace + layout.slots);
  p.scores = reinterpret_cast<float*>(workspace + layout.scores);
  p.score_capacity = static_cast<int64_t>(decode::kPageScores) * plan.score_pages;
  switch (args.head_dim) {
    case 64:
      return Launch<64>(p, plan);
    case 96:
      return Launch<96>(p, plan);
    case 128:
      return Launch<128>(p, plan);
    case 256:
      return Launch<256>(p, plan);
    default:
      TAUSERVE_CHECK(false, "DecodeSupports() refuses this head_dim");
  }
}

}  // namespace tauserve::cuda
