// Attention of a step: which kernel does which rows. Slices of a few tokens in front of a step are the decode kernel's,
// where it supports them; from the first prompt on, softmax heads are the flash kernels' and entmax heads the prefill
// kernel's, or the generic one's where that does not support them.
#include <algorithm>
#include <bit>
#include <span>

#include "kernels/check.h"
#include "kernels/cuda/attention_generic.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/cuda_check.h"
#include "kernels/cuda/decode.h"
#include "kernels/cuda/flash.h"
#include "kernels/cuda/flash_sm90.h"
#include "kernels/cuda/prefill_sm90.h"

namespace tauserve::cuda {
namespace {

// Whether the kernels made for Hopper are in this build (TAUSERVE_CUDA_GENCODE).
constexpr bool kHasSm90 = TAUSERVE_CUDA_SM90;

// Sizes that captured launches are laid out for grow in steps, so that they are seldom captured anew.
constexpr unsigned kFewestPlannedRows = 16;
constexpr unsigned kFewestPlannedTokens = 4096;

// The slices [first, first + count) of a step.
AttentionArgs SlicesOf(const AttentionArgs& all, int first, int count) {
  AttentionArgs args = all;
  args.slices += first;
  args.host_slices += first;
  args.num_slices = count;
  args.stats += first;
  return args;
}

// What a captured launch depends on.
Signature SignatureOf(const AttentionArgs& args) {
  Signature s;
  s.Add(args.q).Add(args.q_stride).Add(args.out).Add(args.out_stride).Add(args.num_rows);
  s.Add(args.query_scale).Add(args.query_scale_stride);
  s.Add(args.keys).Add(args.page_table).Add(args.slices).Add(args.num_slices);
  s.Add(args.heads).Add(args.num_heads).Add(args.num_kv_heads).Add(args.head_dim);
  s.Add(args.scale).Add(args.sliding_window).Add(args.causal);
  return s.Add(args.stats).Add(args.workspace);
}

}  // namespace

const Head* CudaBackend::HeadsOf(int layer, const AttentionSpec& spec) {
  LayerHeads& heads = heads_[layer];
  bool same = heads.host.size() == spec.alpha.size();
  for (size_t h = 0; same && h < heads.host.size(); h++) {
    same = heads.host[h].alpha == spec.alpha[h] && heads.host[h].alibi_slope == spec.alibi_slope[h];
  }
  if (same) return heads.device.as<Head>();
  graphs_.Run(stream_);  // what was queued reads the old ones
  CUDA_CHECK(cudaStreamSynchronize(stream_));
  heads.host.clear();
  for (int h = 0; h < spec.num_heads; h++) {
    heads.host.push_back({spec.alpha[h], spec.alibi_slope[h]});
  }
  const size_t bytes = heads.host.size() * sizeof(Head);
  if (Grown(heads.device, bytes, "a layer's heads") != nullptr) {
    Upload(heads.device.data(), heads.host.data(), bytes);
  }
  return heads.device.as<Head>();
}

void CudaBackend::Attention(int layer, const AttentionSpec& spec, Matrix q, Matrix query_scale,
                            Matrix out) {
  if (!Works()) return;
  const KvCacheSpec& cache = kv_layout_.spec;
  TAUSERVE_CHECK(layer >= 0 && layer < cache.num_layers && spec.head_dim == cache.head_dim &&
                     spec.num_kv_heads == cache.num_kv_heads,
                 "attention differs from its cache");
  TAUSERVE_CHECK(spec.head_dim % 16 == 0 && spec.head_dim >= 32 && spec.head_dim <= 256,
                 "head_dim");
  TAUSERVE_CHECK(q.rows == step_.num_rows() && out.rows == q.rows, "rows");
  TAUSERVE_CHECK(q.stride % 8 == 0 && out.stride % 8 == 0, "rows begin at multiples of 16 bytes");
  const LayerKv kv = kv_layout_.layer(kv_.as<std::byte>(), layer);
  AttentionArgs args;
  args.q = static_cast<const __nv_bfloat16*>(q.data);
  args.q_stride = q.stride;
  args.out = static_cast<__nv_bfloat16*>(out.data);
  args.out_stride = out.stride;
  args.query_scale = static_cast<const float*>(query_scale.data);
  args.query_scale_stride = query_scale.stride;
  args.keys = kv.keys;
  args.values = kv.values;
  args.shadow = kv.shadow;
  args.shadow_scale = kv.shadow_scale;
  args.page_key_norms = kv.page_key_norms;
  args.num_pages = cache.num_pages;
  args.page_table = step_.page_table();
  args.slices = step_.device_slices();
  args.host_slices = step_.slices().data();
  args.num_slices = static_cast<int>(step_.slices().size());
  args.num_rows = step_.num_rows();
  args.heads = HeadsOf(layer, spec);
  args.host_heads = heads_[layer].host.data();
  args.num_heads = spec.num_heads;
  args.num_kv_heads = spec.num_kv_heads;
  args.head_dim = spec.head_dim;
  args.scale = spec.scale;
  args.sliding_window = spec.sliding_window;
  args.causal = spec.causal;
  args.stats = step_.device_stats();
  args.stream = stream_;
  int decoding = 0;  // slices in front
  while (decoding < args.num_slices && IsDecodeSlice(args.host_slices[decoding])) decoding++;
  if (decoding > 0 && !DecodeSupports(args)) decoding = 0;
  if (decoding > 0) AttendDecode(SlicesOf(args, 0, decoding));
  if (decoding < args.num_slices) {
    AttendPrefill(SlicesOf(args, decoding, args.num_slices - decoding));
  }
}

CudaBackend::StepPlan* CudaBackend::PlanOf(const AttentionArgs& args) {
  const std::span<const Slice> slices(args.host_slices, args.num_slices);
  Signature layers;
  layers.Add(args.num_heads).Add(args.num_kv_heads).Add(args.head_dim).Add(args.sliding_window);
  layers.Add(args.causal);
  for (int h = 0; h < args.num_heads; h++) {
    layers.Add(args.host_heads[h].alpha == 1).Add(args.host_heads[h].alibi_slope > 0);
  }
  auto it = std::find_if(plans_.begin(), plans_.end(), [&](const std::unique_ptr<StepPlan>& plan) {
    return plan->layers == layers.value();
  });
  if (it == plans_.end()) it = plans_.insert(it, std::make_unique<StepPlan>());
  StepPlan& step_plan = **it;
  if (step_plan.current) return &step_plan;
  step_plan.layers = layers.value();
  unsigned rows = kFewestPlannedRows, tokens = kFewestPlannedTokens, sum = 0;
  for (const Slice& slice : slices) {
    sum += slice.num_tokens;
    tokens = std::max<unsigned>(tokens, slice.context_tokens + slice.num_tokens);
  }
  DecodePlanOptions& options = step_plan.options;
  options = {};
  options.num_heads = args.num_heads;
  options.num_kv_heads = args.num_kv_heads;
  options.head_dim = args.head_dim;
  options.sliding_window = args.sliding_window;
  options.causal = args.causal;
  options.heads = {args.host_heads, static_cast<size_t>(args.num_heads)};
  options.has_shadow = args.shadow != nullptr;
  options.num_blocks = std::min(multiprocessors_, kMaxDecodeBlocks);
  options.max_rows = static_cast<int>(std::bit_ceil(std::max(rows, sum)));
  options.max_tokens = std::bit_ceil(tokens);
  step_plan.plan = MakeDecodePlan(options, slices);
  const size_t bytes = DecodePlan::MaxDeviceBytes(MaxDecodeGroups(options, options.max_rows));
  if (step_plan.host.size() < bytes) step_plan.host = GpuBuffer(bytes, GpuBuffer::Kind::kPinned);
  if (Grown(step_plan.device, bytes, "the plan of a step") == nullptr ||
      step_plan.host.data() == nullptr) {
    return nullptr;
  }
  step_plan.plan.Serialize(step_plan.host.as<std::byte>());
  CUDA_CHECK(cudaMemcpyAsync(step_plan.device.data(), step_plan.host.data(),
                             step_plan.plan.DeviceBytes(), cudaMemcpyHostToDevice, stream_));
  step_plan.current = true;
  return &step_plan;
}

void CudaBackend::AttendDecode(AttentionArgs args) {
  StepPlan* step_plan = PlanOf(args);
  if (step_plan == nullptr) return;
  const DecodePlan& plan = step_plan->plan;
  args.workspace_bytes = DecodeWorkspaceBytes(plan, args.head_dim);
  args.workspace = Grown(decode_workspace_, args.workspace_bytes, "the scratch of decoding");
  if (args.workspace == nullptr) return;
  void* device_plan = step_plan->device.data();
  const DecodePlanOptions& options = step_plan->options;
  Signature signature = SignatureOf(args);
  signature.Add(step_plan->layers).Add(plan.use_shadow).Add(options.max_rows);
  signature.Add(options.max_tokens).Add(device_plan);
  graphs_.Do(signature, [args, &plan, device_plan] { Decode(args, plan, device_plan); });
}

void CudaBackend::AttendPrefill(AttentionArgs args) {
  const Head* heads = args.host_heads;
  const auto softmax_heads = std::count_if(heads, heads + args.num_heads,
                                           [](const Head& head) { return head.alpha == 1; });
  if (softmax_heads < args.num_heads) AttendPrefillEntmax(args);
  if (softmax_heads > 0) AttendPrefillSoftmax(args);
}

bool CudaBackend::TakePrefillWorkspace(size_t bytes, AttentionArgs& args) {
  args.workspace_bytes = bytes;
  args.workspace = Grown(prefill_workspace_, bytes, "the scratch of prefill");
  return bytes == 0 || args.workspace != nullptr;
}

void CudaBackend::AttendPrefillEntmax(AttentionArgs args) {
  if constexpr (kHasSm90) {
    if (!graphs_.defers() && PrefillSm90Supports(args)) {
      const size_t bytes =
          PrefillSm90WorkspaceBytes(args.num_rows, args.num_slices, args.num_heads);
      if (TakePrefillWorkspace(bytes, args)) PrefillSm90(args);
      return;
    }
  }
  graphs_.Do(SignatureOf(args), [args] { AttentionGeneric(args); });
}

void CudaBackend::AttendPrefillSoftmax(AttentionArgs args) {
  if (graphs_.defers()) {
    Signature signature = SignatureOf(args);
    for (int h = 0; h < args.num_heads; h++) signature.Add(args.host_heads[h].alpha == 1);
    graphs_.Do(signature, [args] { Flash(args); });
    return;
  }
  if constexpr (kHasSm90) {
    if (FlashSm90Supports()) {
      if (TakePrefillWorkspace(FlashSm90WorkspaceBytes(args), args)) FlashSm90(args);
      return;
    }
  }
  if (TakePrefillWorkspace(FlashWorkspaceBytes(args), args)) Flash(args);
}

}  // namespace tauserve::cuda
