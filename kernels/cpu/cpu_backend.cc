#include "kernels/cpu/cpu_backend.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <new>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"
#include "kernels/cpu/attention_plan.h"
#include "kernels/cpu/guess_cache.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/kernels.h"
#include "kernels/cpu/kv_cache.h"
#include "kernels/cpu/linear.h"
#include "kernels/cpu/mapping.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/cpu/worker_memory.h"
#include "kernels/host_floats.h"

namespace tauserve::cpu {
namespace {

constexpr size_t kAlignment = 64;

class HostBuffer : public DeviceBuffer {
 public:
  explicit HostBuffer(size_t size)
      : size_(size),
        data_(::operator new (std::max<size_t>(size, 1), std::align_val_t{kAlignment})) {
    std::memset(data_, 0, size);
  }
  ~HostBuffer() override { ::operator delete (data_, std::align_val_t{kAlignment}); }
  void* data() override { return data_; }
  size_t size() const override { return size_; }
  const float* floats() const { return static_cast<const float*>(data_); }

 private:
  size_t size_;
  void* data_;
};

class HostEmbedding : public EmbeddingWeight {
 public:
  explicit HostEmbedding(const HostTensor& table)
      : type(table.type), rows(table.shape[0]), cols(table.shape[1]) {
    const char* from = static_cast<const char*>(table.data);
    bytes.assign(from, from + table.size() * SizeOf(type));
  }
  DataType type;
  int64_t rows, cols;
  std::vector<char> bytes;
};

float* Row(Matrix m, int64_t row) { return static_cast<float*>(m.data) + row * m.stride; }

class CpuBackend : public Backend {
 public:
  CpuBackend(const BackendOptions& options, Isa isa, int threads)
      : pool_(threads),
        kernels_(KernelsFor(isa)),
        linear_(options.compute_type.value_or(DataType::kFloat32), &kernels_, &pool_),
        kv_type_(options.kv_type.value_or(options.compute_type.value_or(DataType::kFloat32))) {
    device_.name =
        absl::StrCat("cpu (", NameOf(isa), ", ", threads, threads == 1 ? " thread)" : " threads)");
    device_.native_bf16 = isa == Isa::kAvx512Bf16;
  }

  const DeviceInfo& device() const override { return device_; }
  DataType activation_type() const override { return DataType::kFloat32; }
  int64_t BytesPerPage(const KvCacheSpec& spec) const override {
    return KvCache::BytesPerPage(spec, kv_type_, kernels_.uses_shadow);
  }
  int64_t AvailableMemory() const override { return AvailableHostMemory(); }
  std::optional<uint64_t> progress() const override { return pool_.progress(); }

  std::unique_ptr<DeviceBuffer> Allocate(size_t bytes) override {
    return std::make_unique<HostBuffer>(bytes);
  }
  std::unique_ptr<DeviceBuffer> AllocateHost(size_t bytes) override {
    return std::make_unique<HostBuffer>(bytes);
  }
  std::unique_ptr<LinearWeight> LoadLinear(absl::Span<const HostTensor> weights,
                                           absl::Span<const HostTensor> biases) override {
    return linear_.Load(weights, biases);
  }
  std::unique_ptr<EmbeddingWeight> LoadEmbedding(const HostTensor& table) override {
    return std::make_unique<HostEmbedding>(table);
  }
  std::unique_ptr<DeviceBuffer> LoadVector(const HostTensor& values) override {
    auto buffer = std::make_unique<HostBuffer>(values.size() * sizeof(float));
    float* to = static_cast<float*>(buffer->data());
    for (int64_t i = 0; i < values.size(); i++) {
      to[i] = ElementAsFloat(values.data, values.type, i);
    }
    return buffer;
  }
  absl::Status CreateKvCache(const KvCacheSpec& spec) override {
    absl::StatusOr<KvCache> cache = KvCache::Create(spec, kv_type_, kernels_.uses_shadow);
    if (!cache.ok()) return cache.status();
    cache_ = std::move(*cache);
    return absl::OkStatus();
  }

  void CopyPages(absl::Span<const PageCopy> copies) override {
    for (const PageCopy& copy : copies) cache_.CopyPage(copy);
  }

  void BeginStep(absl::Span<const SequenceSlice> slices) override {
    slices_.assign(slices.begin(), slices.end());
    row_place_.clear();
    for (size_t s = 0; s < slices_.size(); s++) {
      const SequenceSlice& slice = slices_[s];
      TAUSERVE_CHECK(slice.first_row == static_cast<int>(row_place_.size()) && slice.num_tokens > 0,
                     "slices cover the rows in order");
      for (int t = 0; t < slice.num_tokens; t++) {
        row_place_.push_back({static_cast<int>(s), slice.context_tokens + t});
      }
    }
    known_.assign(slices_.size(), SequenceGuess());
    learned_.assign(slices_.size(), SequenceGuess());
    for (size_t s = 0; s < slices_.size(); s++) {
      const SequenceSlice& slice = slices_[s];
      if (!IsPrefill(slice)) continue;
      const int tokens = slice.context_tokens + slice.num_tokens;
      if (slice.context_tokens > 0) {
        known_[s] = guesses_.Take(slice.pages[(slice.context_tokens - 1) / kPageTokens],
                                  slice.context_tokens);
      }
      learned_[s].last_page = slice.pages[(tokens - 1) / kPageTokens];
      learned_[s].tokens = tokens;
    }
    stats_.assign(slices_.size(), AttentionStats());
    for (auto& m : workers_) m->stats.assign(slices_.size(), AttentionStats());
    rope_spec_ = nullptr;
  }

  void Embed(const EmbeddingWeight& table, absl::Span<const int32_t> tokens, Matrix out) override {
    const auto& e = static_cast<const HostEmbedding&>(table);
    TAUSERVE_CHECK(out.cols == e.cols && out.rows == static_cast<int64_t>(tokens.size()), "shapes");
    ForRows(out.rows, [&](int64_t r) {
      TAUSERVE_CHECK(tokens[r] >= 0 && tokens[r] < e.rows, "token id out of range");
      for (int64_t c = 0; c < e.cols; c++) {
        Row(out, r)[c] = ElementAsFloat(e.bytes.data(), e.type, tokens[r] * e.cols + c);
      }
    });
  }

  void RmsNorm(Matrix in, const DeviceBuffer& weight, float epsilon, Matrix out) override {
    TAUSERVE_CHECK(in.cols == out.cols && in.rows == out.rows, "shapes");
    const float* w = static_cast<const HostBuffer&>(weight).floats();
    const int64_t n = weight.size() / sizeof(float);
    TAUSERVE_CHECK(n > 0 && in.cols % n == 0, "norm's weight");
    ForRows(in.rows, [&](int64_t r) {
      for (int64_t c = 0; c < in.cols; c += n) {
        kernels_.rms_norm(Row(in, r) + c, w, static_cast<int>(n), epsilon, Row(out, r) + c);
      }
    });
  }

  void Linear(const LinearWeight& weight, Matrix in, Matrix out) override {
    linear_.Run(weight, in, out, /*add=*/false);
  }
  void LinearAdd(const LinearWeight& weight, Matrix in, Matrix out) override {
    linear_.Run(weight, in, out, /*add=*/true);
  }
  void LinearToFloat(const LinearWeight& weight, Matrix in, Matrix out) override {
    linear_.Run(weight, in, out, /*add=*/false);
  }
  void SelectTopLogits(Matrix logits, absl::Span<const LogitsQuery> queries,
                       TopLogits* out) override {
    TAUSERVE_CHECK(logits.rows == static_cast<int64_t>(queries.size()), "shapes");
    pool_.ParallelFor(logits.rows, [&](int64_t r, int) {
      if (queries[r].whole) return;
      const absl::Span<const float> row(Row(logits, r), logits.cols);
      FindTopLogits(row, queries[r], &out[r]);
    });
  }

  void Rope(const RopeSpec& spec, int head_dim, Matrix x) override {
    const int half = spec.rotary_dim / 2;
    if (rope_spec_ != &spec) {  // one table a step, shared by all layers
      rope_spec_ = &spec;
      rope_table_.resize(row_place_.size() * spec.rotary_dim);
      ForRows(row_place_.size(), [&](int64_t r) {
        float* table = rope_table_.data() + r * spec.rotary_dim;
        for (int d = 0; d < half; d++) {
          const double angle = double{row_place_[r].position * 1.0} * spec.inverse_frequency[d];
          table[d] = static_cast<float>(std::cos(angle) * spec.attention_factor);
          table[half + d] = static_cast<float>(std::sin(angle) * spec.attention_factor);
        }
      });
    }
    ForRows(x.rows, [&](int64_t r) {
      const float* table = rope_table_.data() + r * spec.rotary_dim;
      for (int64_t at = 0; at < x.cols; at += head_dim) {
        kernels_.rope(Row(x, r) + at, table, table + half, half);
      }
    });
  }

  void GatedActivation(Activation act, Matrix gate_up, Matrix out) override {
    TAUSERVE_CHECK(gate_up.cols == 2 * out.cols && gate_up.rows == out.rows, "shapes");
    ForRows(out.rows, [&](int64_t r) {
      kernels_.gated_activation(act, Row(gate_up, r), Row(gate_up, r) + out.cols,
                                static_cast<int>(out.cols), Row(out, r));
    });
  }

  void QueryScale(const QueryScaleSpec& spec, Matrix projected, Matrix out) override {
    ForRows(out.rows, [&](int64_t r) {
      const float log_position = std::log(row_place_[r].position + 2.0f);
      float* to = Row(out, r);
      for (int h = 0; h < spec.first_head; h++) to[h] = 1;
      const int n = static_cast<int>(out.cols) - spec.first_head;
      for (int i = 0; i < n; i++) {
        float delta = spec.delta, beta = 0, gamma = 1;
        switch (spec.kind) {
          case QueryScaleSpec::Kind::kAdaptive: {
            const float b = Row(projected, r)[i];
            beta = b > 20 ? b : std::log1p(std::exp(b));
            gamma = spec.gamma_range * std::tanh(Row(projected, r)[n + i]);
            break;
          }
          case QueryScaleSpec::Kind::kLearned:
            beta = spec.beta[i];
            gamma = spec.gamma[i];
            break;
          case QueryScaleSpec::Kind::kLogarithmic:
            beta = spec.beta[i];
            delta = 0;
            break;
          case QueryScaleSpec::Kind::kNone:
            delta = 1;
            break;
        }
        to[spec.first_head + i] = delta + beta * std::pow(log_position, gamma);
      }
    });
  }

  void AppendKv(int layer, Matrix keys, Matrix values) override {
    const LayerKv kv = cache_.layer(layer);
    TAUSERVE_CHECK(keys.cols == int64_t{kv.num_kv_heads} * kv.head_dim, "key width");
    // By slice and head, in order of tokens: a page's norm is raised by one thread at a time.
    pool_.ParallelFor(slices_.size() * kv.num_kv_heads, [&](int64_t i, int) {
      const SequenceSlice& slice = slices_[i / kv.num_kv_heads];
      const int head = static_cast<int>(i % kv.num_kv_heads);
      for (int t = 0; t < slice.num_tokens; t++) {
        const int position = slice.context_tokens + t;
        const int64_t r = slice.first_row + t;
        const int page = position / kPageTokens;
        kernels_.append_token(kv, page > 0 ? slice.pages[page - 1] : -1, slice.pages[page],
                              position % kPageTokens, head, Row(keys, r) + head * kv.head_dim,
                              Row(values, r) + head * kv.head_dim);
      }
    });
  }

  void Attention(int layer, const AttentionSpec& spec, Matrix q, Matrix query_scale,
                 Matrix out) override {
    AttentionCall call;
    call.spec = &spec;
    call.kv = cache_.layer(layer);
    TAUSERVE_CHECK(spec.head_dim == call.kv.head_dim && spec.num_kv_heads == call.kv.num_kv_heads,
                   "attention differs from its cache");
    TAUSERVE_CHECK(spec.head_dim % 16 == 0 && spec.head_dim >= 32 && spec.head_dim <= 256,
                   "head_dim");
    call.alpha = spec.alpha.data();
    call.alibi_slope = spec.alibi_slope.data();
    call.q = static_cast<const float*>(q.data);
    call.q_stride = q.stride;
    call.q_head_stride = call.out_head_stride = spec.head_dim;
    call.query_scale = static_cast<const float*>(query_scale.data);
    call.query_scale_stride = query_scale.stride;
    call.out = static_cast<float*>(out.data);
    call.out_stride = out.stride;
    PlanAttention(spec, slices_, tasks_);
    PrepareWorkers(spec.head_dim);
    for (size_t s = 0; s < slices_.size(); s++) {  // so that the workers only look
      if (!IsPrefill(slices_[s])) continue;
      known_[s].head(layer, spec.num_heads, 0);
      learned_[s].head(layer, spec.num_heads, 0);
    }
    pool_.ParallelFor(tasks_.size(), [&](int64_t i, int worker) {
      const AttentionTask& task = tasks_[i];
      Workspace& w = workers_[worker]->workspace();
      const bool prefill = IsPrefill(*task.slice);
      if (prefill) {
        const std::vector<int32_t>& known =
            known_[task.slice_index].head(layer, spec.num_heads, task.head_begin);
        std::copy(known.begin(), known.end(), w.guess);
        w.guess_count = static_cast<int>(known.size());
      }
      kernels_.attend(call, task, w);
      if (prefill && task.token_end == task.slice->num_tokens) {
        const int count = std::min(w.guess_count, kMaxColumns);
        learned_[task.slice_index]
            .head(layer, spec.num_heads, task.head_begin)
            .assign(w.guess, w.guess + count);
      }
    });
  }

  void GatherRows(Matrix in, absl::Span<const int32_t> rows, Matrix out) override {
    for (size_t i = 0; i < rows.size(); i++) {
      std::memcpy(Row(out, i), Row(in, rows[i]), in.cols * sizeof(float));
    }
  }
  void Download(Matrix in, float* out) override {
    for (int64_t r = 0; r < in.rows; r++) {
      std::memcpy(out + r * in.cols, Row(in, r), in.cols * sizeof(float));
    }
  }
  void DownloadFloats(Matrix in, float* out) override { Download(in, out); }
  absl::Status Synchronize() override {
    for (SequenceGuess& guess : learned_) {
      if (!guess.heads.empty()) guesses_.Put(std::move(guess));
    }
    learned_.clear();
    for (auto& m : workers_) {
      for (size_t s = 0; s < m->stats.size(); s++) stats_[s].Add(m->stats[s]);
      m->stats.assign(m->stats.size(), AttentionStats());
    }
    return absl::OkStatus();
  }
  absl::Span<const AttentionStats> stats() const override { return stats_; }

 private:
  struct Place {
    int slice;
    int32_t position;
  };

  template <typename Task>
  void ForRows(int64_t rows, const Task& task) {
    constexpr int64_t kRows = 16;  // about a microsecond of work and more
    pool_.ParallelFor((rows + kRows - 1) / kRows, [&](int64_t i, int) {
      for (int64_t r = i * kRows; r < std::min(rows, (i + 1) * kRows); r++) task(r);
    });
  }

  // Workers' memory fits the longest context of the cache.
  void PrepareWorkers(int head_dim) {
    if (workers_.empty()) {
      const int64_t max_keys = int64_t{cache_.spec().num_pages} * kPageTokens;
      for (int i = 0; i < pool_.threads(); i++) {
        workers_.push_back(std::make_unique<WorkerMemory>(head_dim, max_keys));
        workers_.back()->stats.assign(slices_.size(), AttentionStats());
      }
    }
    for (auto& m : workers_) m->workspace().stats = m->stats.data();
  }

  DeviceInfo device_;
  ThreadPool pool_;
  const Kernels& kernels_;
  LinearEngine linear_;
  DataType kv_type_;
  KvCache cache_;
  GuessCache guesses_;

  // The current step.
  std::vector<SequenceSlice> slices_;
  std::vector<Place> row_place_;  // [rows]
  std::vector<AttentionStats> stats_;
  const RopeSpec* rope_spec_ = nullptr;
  std::vector<float> rope_table_;               // [rows][rotary_dim]: cosines, sines
  std::vector<SequenceGuess> known_, learned_;  // [slices]
  std::vector<AttentionTask> tasks_;
  std::vector<std::unique_ptr<WorkerMemory>> workers_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> CreateCpuBackend(const BackendOptions& options) {
  absl::StatusOr<Isa> isa = ChooseIsa();
  if (!isa.ok()) return isa.status();
  int threads = options.threads;
  if (threads < 0 || threads > 1024) {
    return absl::InvalidArgumentError(absl::StrCat("threads is ", threads, ", not in [0, 1024]"));
  }
  if (threads == 0) threads = std::max(1u, std::thread::hardware_concurrency());
  if (options.compute_type == DataType::kFloat16 || options.kv_type == DataType::kFloat16) {
    return absl::InvalidArgumentError("the CPU computes in float32 or bfloat16, not float16");
  }
  return std::make_unique<CpuBackend>(options, *isa, threads);
}

}  // namespace tauserve::cpu
