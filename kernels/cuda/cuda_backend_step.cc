// The operations of a step: each checks its shapes and is launched, or kept for the step's graph.
#include <algorithm>
#include <cstring>

#include "kernels/check.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/cuda_check.h"
#include "kernels/cuda/elementwise.h"
#include "kernels/cuda/top_logits.h"

namespace tauserve::cuda {
namespace {

constexpr size_t kMaxGraphRows = 128;
constexpr size_t kMinTopLogitsRows = 64;  // half a megabyte; every growth costs the graphs

// Operations, for signatures.
enum class Op {
  kGather,
  kNorm,
  kLinear,
  kTopLogits,
  kRopeTable,
  kRope,
  kGated,
  kGatedLinear,
  kScale,
  kAppend,
  kDownload
};

Signature SignatureOf(Op op, const void* of, const Matrix& a, const Matrix& b) {
  Signature s;
  return s.Add(op).Add(of).Add(a).Add(b);
}

}  // namespace

void CudaBackend::CopyPages(absl::Span<const PageCopy> copies) {
  if (!Works()) return;
  for (const PageCopy& copy : copies) {
    for (PageId page : {copy.from, copy.to}) {
      TAUSERVE_CHECK(page >= 0 && page < kv_layout_.spec.num_pages, "page out of range");
    }
  }
  CopyPagesOf(kv_layout_, kv_.as<std::byte>(), copies, stream_);
}

void CudaBackend::BeginStep(absl::Span<const SequenceSlice> slices) {
  if (!Works()) return;
  if (queued_) Finish();  // nobody waited: uploads may still be read from pinned memory
  queued_ = true;
  rope_spec_ = nullptr;
  const int generation = step_.generation();
  if (!step_.Begin(slices, stream_)) return;
  if (step_.generation() != generation) graphs_.Forget();
  BeginPages(kv_layout_, kv_.as<std::byte>(), step_.begun_pages(), step_.num_begun_pages(),
             stream_);
  // Steps of decoding alike have the same launches; longer ones rarely come twice.
  const bool decode = std::all_of(slices.begin(), slices.end(),
                                  [](const SequenceSlice& s) { return s.num_tokens == 1; });
  graphs_.Begin(decode && slices.size() <= kMaxGraphRows);
  for (const std::unique_ptr<StepPlan>& plan : plans_) plan->current = false;
}

void CudaBackend::Embed(const EmbeddingWeight& table, absl::Span<const int32_t> tokens,
                        Matrix out) {
  if (!Works()) return;
  const auto& e = static_cast<const GpuEmbedding&>(table);
  TAUSERVE_CHECK(out.cols == e.cols && out.rows == static_cast<int64_t>(tokens.size()), "shapes");
  for (const int32_t token : tokens) {
    TAUSERVE_CHECK(token >= 0 && token < e.rows, "token id out of range");
  }
  Gather(e.data.as<__nv_bfloat16>(), e.cols, tokens, out);
}

void CudaBackend::Gather(const __nv_bfloat16* table, int64_t stride, absl::Span<const int32_t> rows,
                         Matrix out) {
  const StepState::Values kept = step_.Keep(rows);
  graphs_.Do(SignatureOf(Op::kGather, table, out, {}).Add(stride).Add(kept.device),
             [this, table, stride, kept, out] {
               StepState::Send(kept, stream_);
               GatherRowsOf(table, stride, kept.device, out, stream_);
             });
}

void CudaBackend::RmsNorm(Matrix in, const DeviceBuffer& weight, float epsilon, Matrix out) {
  if (!Works()) return;
  const int64_t n = weight.size() / sizeof(float);
  TAUSERVE_CHECK(in.cols == out.cols && in.rows == out.rows, "shapes");
  TAUSERVE_CHECK(n > 0 && in.cols % n == 0, "norm's weight");
  const float* w = static_cast<const GpuBuffer&>(weight).as<float>();
  graphs_.Do(SignatureOf(Op::kNorm, w, in, out).Add(n).Add(epsilon),
             [this, in, w, n, epsilon, out] {
               RmsNormRows(in, w, static_cast<int>(n), epsilon, out, stream_);
             });
}

void CudaBackend::Linear(const LinearWeight& weight, Matrix in, Matrix out) {
  Multiply(weight, in, /*add=*/false, out, DataType::kBFloat16);
}

void CudaBackend::LinearAdd(const LinearWeight& weight, Matrix in, Matrix out) {
  Multiply(weight, in, /*add=*/true, out, DataType::kBFloat16);
}

void CudaBackend::LinearToFloat(const LinearWeight& weight, Matrix in, Matrix out) {
  Multiply(weight, in, /*add=*/false, out, DataType::kFloat32);
}

void CudaBackend::Multiply(const LinearWeight& weight, Matrix in, bool add, Matrix out,
                           DataType out_type) {
  if (!Works()) return;
  const auto* w = static_cast<const GpuLinear*>(&weight);
  graphs_.Do(
      SignatureOf(Op::kLinear, w, in, out).Add(add).Add(out_type),
      [this, w, in, add, out, out_type] { linear_.Run(*w, in, add, out, out_type, stream_); });
}

void CudaBackend::SelectTopLogits(Matrix logits, absl::Span<const LogitsQuery> queries,
                                  TopLogits* out) {
  if (!Works() || logits.rows == 0) return;
  TAUSERVE_CHECK(logits.rows == static_cast<int64_t>(queries.size()), "shapes");
  const size_t bytes = logits.rows * sizeof(TopLogits);
  const size_t room = std::max(bytes, kMinTopLogitsRows * sizeof(TopLogits));
  if (Grown(top_logits_, room, "the largest logits of a step") == nullptr) return;
  TopLogits* const selected = top_logits_.as<TopLogits>();
  query_words_.resize(logits.rows * sizeof(TopLogitsQuery) / sizeof(int32_t));
  for (int64_t r = 0; r < logits.rows; r++) {
    const TopLogitsQuery query(queries[r]);
    std::memcpy(query_words_.data() + r * sizeof(query) / sizeof(int32_t), &query, sizeof(query));
  }
  const StepState::Values kept = step_.Keep(query_words_);
  graphs_.Do(SignatureOf(Op::kTopLogits, selected, logits, {}).Add(out).Add(kept.device),
             [this, kept, logits, bytes, selected, out] {
               StepState::Send(kept, stream_);
               SelectTopLogitsOf(logits, reinterpret_cast<const TopLogitsQuery*>(kept.device),
                                 selected, stream_);
               CUDA_CHECK(cudaMemcpyAsync(out, selected, bytes, cudaMemcpyDeviceToHost, stream_));
             });
}

void CudaBackend::Rope(const RopeSpec& spec, int head_dim, Matrix x) {
  if (!Works()) return;
  TAUSERVE_CHECK(x.rows == step_.num_rows() && spec.rotary_dim <= head_dim, "shapes");
  const size_t bytes = x.rows * spec.rotary_dim * sizeof(float);
  if (rope_spec_ != &spec) {  // one table a step, shared by all layers
    if (Grown(rope_table_, bytes, "the rotary table of a step") == nullptr) return;
    rope_spec_ = &spec;
    graphs_.Do(SignatureOf(Op::kRopeTable, &spec, x, {}).Add(step_.positions()),
               [this, &spec, rows = x.rows] {
                 MakeRopeTable(spec, step_.positions(), rows, rope_table_.as<float>(), stream_);
               });
  }
  graphs_.Do(SignatureOf(Op::kRope, &spec, x, {}).Add(head_dim), [this, &spec, head_dim, x] {
    RopeRows(rope_table_.as<float>(), spec.rotary_dim, head_dim, x, stream_);
  });
}

void CudaBackend::GatedActivation(Activation act, Matrix gate_up, Matrix out) {
  if (!Works()) return;
  TAUSERVE_CHECK(gate_up.cols == 2 * out.cols && gate_up.rows == out.rows, "shapes");
  graphs_.Do(SignatureOf(Op::kGated, nullptr, gate_up, out).Add(act),
             [this, act, gate_up, out] { GatedActivationRows(act, gate_up, out, stream_); });
}

void CudaBackend::GatedLinear(const LinearWeight& weight, Activation act, Matrix in, Matrix gate_up,
                              Matrix out) {
  if (!Works()) return;
  const auto* w = static_cast<const GpuLinear*>(&weight);
  const Signature signature = SignatureOf(Op::kGatedLinear, w, in, out).Add(gate_up).Add(act);
  graphs_.Do(signature, [this, w, act, in, gate_up, out] {
    linear_.RunGated(*w, act, in, gate_up, out, stream_);
  });
}

void CudaBackend::QueryScale(const QueryScaleSpec& spec, Matrix projected, Matrix out) {
  if (!Works()) return;
  TAUSERVE_CHECK(out.rows == step_.num_rows() && out.cols <= kMaxScaledHeads, "shapes");
  graphs_.Do(SignatureOf(Op::kScale, &spec, projected, out).Add(step_.positions()),
             [this, &spec, projected, out] {
               QueryScaleRows(spec, step_.positions(), projected, out, stream_);
             });
}

void CudaBackend::AppendKv(int layer, Matrix keys, Matrix values) {
  if (!Works()) return;
  const KvCacheSpec& spec = kv_layout_.spec;
  TAUSERVE_CHECK(layer >= 0 && layer < spec.num_layers, "layer out of range");
  TAUSERVE_CHECK(keys.cols == int64_t{spec.num_kv_heads} * spec.head_dim, "key width");
  TAUSERVE_CHECK(keys.rows == step_.num_rows() && values.rows == keys.rows, "rows");
  AppendArgs args;
  args.kv = kv_layout_.layer(kv_.as<std::byte>(), layer);
  args.num_kv_heads = spec.num_kv_heads;
  args.head_dim = spec.head_dim;
  args.keys = keys;
  args.values = values;
  args.row_slot = step_.row_slots();
  graphs_.Do(SignatureOf(Op::kAppend, args.kv.keys, keys, values).Add(args.row_slot),
             [this, args] { AppendRows(args, stream_); });
}

void CudaBackend::GatherRows(Matrix in, absl::Span<const int32_t> rows, Matrix out) {
  if (!Works()) return;
  TAUSERVE_CHECK(out.rows == static_cast<int64_t>(rows.size()) && in.cols == out.cols, "shapes");
  Gather(static_cast<const __nv_bfloat16*>(in.data), in.stride, rows, out);
}

void CudaBackend::Download(Matrix in, float* out) {
  if (!Works() || in.rows == 0) return;
  const size_t bytes = in.rows * in.cols * sizeof(float);
  void* floats = Grown(floats_, bytes, "a matrix to download");
  if (floats == nullptr) return;
  graphs_.Do(SignatureOf(Op::kDownload, floats, in, {}).Add(out), [this, in, floats, bytes, out] {
    ToFloatRows(in, static_cast<float*>(floats), stream_);
    CUDA_CHECK(cudaMemcpyAsync(out, floats, bytes, cudaMemcpyDeviceToHost, stream_));
  });
}

void CudaBackend::DownloadFloats(Matrix in, float* out) {
  if (!Works() || in.rows == 0) return;
  queued_ = true;
  float_copies_.push_back({in, out});
}

void CudaBackend::Finish() {
  graphs_.Run(stream_);
  for (const auto& [in, out] : float_copies_) {
    const size_t bytes = in.cols * sizeof(float);
    CUDA_CHECK(cudaMemcpy2DAsync(out, bytes, in.data, in.stride * sizeof(float), bytes, in.rows,
                                 cudaMemcpyDeviceToHost, stream_));
  }
  float_copies_.clear();
  step_.DownloadStats(stream_);
  CUDA_CHECK(cudaStreamSynchronize(stream_));
}

absl::Status CudaBackend::Synchronize() {
  if (Works()) Finish();
  queued_ = false;
  return status();
}

}  // namespace tauserve::cuda
