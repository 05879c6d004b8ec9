#include "kernels/cpu/attention_function.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/cpu/attention_plan.h"
#include "kernels/cpu/isa.h"

namespace tauserve::cpu {
namespace {

// Parts of the gradients' work that are wanted in all, and queries of a part, at least: each has sums of its own.
constexpr int64_t kGradientParts = 16;
constexpr int kPartTokens = 512;

int64_t PagesOf(const AttentionSequence& s) { return (s.keys + kPageTokens - 1) / kPageTokens; }

}  // namespace

absl::Status CheckSpec(const AttentionSpec& spec) {
  auto invalid = [](const auto&... what) {
    return absl::InvalidArgumentError(absl::StrCat(what...));
  };
  if (spec.head_dim % 16 != 0 || spec.head_dim < 32 || spec.head_dim > 256) {
    return invalid("head_dim is ", spec.head_dim, ", not a multiple of 16 in [32, 256]");
  }
  if (spec.num_kv_heads < 1 || spec.num_heads < 1 || spec.num_heads % spec.num_kv_heads != 0) {
    return invalid(spec.num_heads, " query heads are no multiple of ", spec.num_kv_heads,
                   " KV heads");
  }
  if (static_cast<int>(spec.alpha.size()) != spec.num_heads) {
    return invalid("alpha has ", spec.alpha.size(), " numbers for ", spec.num_heads,
                   " query heads");
  }
  if (static_cast<int>(spec.alibi_slope.size()) != spec.num_heads) {
    return invalid("there are ", spec.alibi_slope.size(), " ALiBi slopes for ", spec.num_heads,
                   " query heads");
  }
  bool biased = false;
  for (float alpha : spec.alpha) {
    if (!(alpha >= 1 && alpha <= 2)) return invalid("alpha is ", alpha, ", not in [1, 2]");
  }
  for (float slope : spec.alibi_slope) {
    if (!(slope >= 0 && std::isfinite(slope))) return invalid("an ALiBi slope is ", slope);
    biased |= slope > 0;
  }
  if (!std::isfinite(spec.scale)) return invalid("scale is ", spec.scale, ", not finite");
  if (spec.sliding_window < 0) return invalid("window is ", spec.sliding_window);
  if (!spec.causal && (spec.sliding_window > 0 || biased)) {
    return invalid("window and ALiBi slopes need causal attention");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<AttentionFunction>> AttentionFunction::Create(int threads,
                                                                             DataType kv_type) {
  const absl::StatusOr<Isa> isa = ChooseIsa();
  if (!isa.ok()) return isa.status();
  if (threads < 0 || threads > 1024) {
    return absl::InvalidArgumentError(absl::StrCat("threads is ", threads, ", not in [0, 1024]"));
  }
  if (kv_type == DataType::kFloat16) {
    return absl::InvalidArgumentError("keys and values are kept in float32 or bfloat16");
  }
  if (threads == 0) threads = std::max(1u, std::thread::hardware_concurrency());
  return std::unique_ptr<AttentionFunction>(
      new AttentionFunction(KernelsFor(*isa), threads, kv_type));
}

absl::Status AttentionFunction::Prepare(const AttentionSpec& spec,
                                        absl::Span<const AttentionSequence> sequences) {
  if (absl::Status status = CheckSpec(spec); !status.ok()) return status;
  int64_t pages = 0, longest = 0;
  for (const AttentionSequence& s : sequences) {
    if (s.queries < 1 || s.queries > s.keys) {
      return absl::InvalidArgumentError(
          absl::StrCat("a sequence has ", s.queries, " queries and ", s.keys, " keys"));
    }
    pages += PagesOf(s);
    longest = std::max(longest, PagesOf(s) * kPageTokens);
  }
  if (pages > INT32_MAX / kPageTokens) {
    return absl::InvalidArgumentError(absl::StrCat(pages * kPageTokens, " keys are too many"));
  }
  const KvCacheSpec& has = cache_.spec();
  if (has.num_pages < pages || has.num_kv_heads != spec.num_kv_heads ||
      has.head_dim != spec.head_dim) {
    cache_ = KvCache();  // before the next one is there
    absl::StatusOr<KvCache> cache =
        KvCache::Create({1, spec.num_kv_heads, spec.head_dim, static_cast<int>(pages)}, kv_type_,
                        kernels_.uses_shadow);
    if (!cache.ok()) return cache.status();
    cache_ = *std::move(cache);
  }
  if (workers_.empty() || workers_[0]->workspace().max_keys < longest ||
      workers_head_dim_ != spec.head_dim) {
    workers_.clear();
    for (int i = 0; i < pool_.threads(); i++) {
      workers_.push_back(std::make_unique<WorkerMemory>(spec.head_dim, longest));
    }
    workers_head_dim_ = spec.head_dim;
  }
  for (auto& worker : workers_) {
    worker->stats.assign(sequences.size(), AttentionStats());
    worker->workspace().stats = worker->stats.data();
  }
  pages_.resize(pages);
  std::iota(pages_.begin(), pages_.end(), 0);
  slices_.clear();
  calls_.clear();
  const PageId* page = pages_.data();
  for (const AttentionSequence& s : sequences) {
    slices_.push_back({0, s.queries, s.keys - s.queries, page});
    page += PagesOf(s);
    AttentionCall call;
    call.spec = &spec;
    call.kv = cache_.layer(0);
    call.alpha = spec.alpha.data();
    call.alibi_slope = spec.alibi_slope.data();
    call.q = s.q.data;
    call.q_stride = s.q.token_stride;
    call.q_head_stride = s.q.head_stride;
    call.out = s.out.data;
    call.out_stride = s.out.token_stride;
    call.out_head_stride = s.out.head_stride;
    call.tau = s.tau;
    call.tau_head_stride = s.tau_head_stride;
    calls_.push_back(call);
  }
  Append(sequences);
  return absl::OkStatus();
}

void AttentionFunction::Append(absl::Span<const AttentionSequence> sequences) {
  const LayerKv kv = cache_.layer(0);
  pool_.ParallelFor(sequences.size() * kv.num_kv_heads, [&](int64_t i, int) {
    const AttentionSequence& s = sequences[i / kv.num_kv_heads];
    const PageId* pages = slices_[i / kv.num_kv_heads].pages;
    const int head = static_cast<int>(i % kv.num_kv_heads);
    for (int t = 0; t < s.keys; t++) {
      const int page = t / kPageTokens;
      kernels_.append_token(kv, page > 0 ? pages[page - 1] : -1, pages[page], t % kPageTokens, head,
                            s.k.at(t, head), s.v.at(t, head));
    }
  });
}

absl::Status AttentionFunction::Forward(const AttentionSpec& spec,
                                        absl::Span<const AttentionSequence> sequences) {
  if (absl::Status status = Prepare(spec, sequences); !status.ok()) return status;
  PlanAttention(spec, slices_, tasks_);
  pool_.ParallelFor(tasks_.size(), [&](int64_t i, int worker) {
    Workspace& w = workers_[worker]->workspace();
    w.guess_count = 0;
    kernels_.attend(calls_[tasks_[i].slice_index], tasks_[i], w);
  });
  stats_ = AttentionStats();
  for (const auto& worker : workers_) {
    for (const AttentionStats& s : worker->stats) stats_.Add(s);
  }
  return absl::OkStatus();
}

// Depends on the shapes alone.
void AttentionFunction::PlanGradients(absl::Span<const AttentionSequence> sequences) {
  const int kv_heads = cache_.spec().num_kv_heads;
  const int64_t units = static_cast<int64_t>(sequences.size()) * kv_heads;
  const int64_t wanted = (kGradientParts + units - 1) / units;
  gradient_tasks_.clear();
  for (size_t i = 0; i < sequences.size(); i++) {
    const AttentionSpec& spec = *calls_[i].spec;
    const int group = spec.num_heads / kv_heads;
    const int queries = sequences[i].queries;
    const int64_t parts = std::clamp<int64_t>(queries / kPartTokens, 1, wanted);
    for (int head = 0; head < kv_heads; head++) {
      for (int64_t part = 0; part < parts; part++) {
        GradientTask task;
        task.rows.slice = &slices_[i];
        task.rows.slice_index = static_cast<int>(i);
        task.rows.kv_head = head;
        task.rows.head_begin = head * group;
        task.rows.head_end = (head + 1) * group;
        // A causal query sees as many keys as its position says: parts of equal areas.
        auto boundary = [&](int64_t p) {
          const double share = static_cast<double>(p) / parts;
          return static_cast<int>(std::lround(queries * (spec.causal ? std::sqrt(share) : share)));
        };
        task.rows.token_begin = boundary(part);
        task.rows.token_end = boundary(part + 1);
        task.rows.cost =
            int64_t{task.rows.token_end - task.rows.token_begin} *
            (spec.causal ? slices_[i].context_tokens + task.rows.token_end : sequences[i].keys);
        gradient_tasks_.push_back(task);
      }
    }
  }
  gradient_order_.resize(gradient_tasks_.size());
  std::iota(gradient_order_.begin(), gradient_order_.end(), 0);
  std::stable_sort(gradient_order_.begin(), gradient_order_.end(), [&](int a, int b) {
    return gradient_tasks_[a].rows.cost > gradient_tasks_[b].rows.cost;
  });
}

absl::Status AttentionFunction::Backward(const AttentionSpec& spec,
                                         absl::Span<const AttentionSequence> sequences) {
  if (absl::Status status = Prepare(spec, sequences); !status.ok()) return status;
  PlanGradients(sequences);
  int64_t floats = 0;
  for (const GradientTask& task : gradient_tasks_) {
    floats += 2 * PagesOf(sequences[task.rows.slice_index]) * kPageTokens * spec.head_dim;
  }
  partial_ = Mapping();
  // A register's width behind the end may be written.
  absl::StatusOr<Mapping> partial = Mapping::Create(floats * sizeof(float) + 64);
  if (!partial.ok()) return partial.status();
  partial_ = *std::move(partial);
  float* at = static_cast<float*>(partial_.data());
  for (GradientTask& task : gradient_tasks_) {
    const int64_t n = PagesOf(sequences[task.rows.slice_index]) * kPageTokens * spec.head_dim;
    task.dk = at;
    task.dv = at + n;
    at += 2 * n;
  }
  pool_.ParallelFor(gradient_tasks_.size(), [&](int64_t i, int worker) {
    const GradientTask& task = gradient_tasks_[gradient_order_[i]];
    const AttentionSequence& s = sequences[task.rows.slice_index];
    GradientCall call;
    call.forward = calls_[task.rows.slice_index];
    call.dout = s.dout.data;
    call.dout_stride = s.dout.token_stride;
    call.dout_head_stride = s.dout.head_stride;
    call.dq = s.dq.data;
    call.dq_stride = s.dq.token_stride;
    call.dq_head_stride = s.dq.head_stride;
    kernels_.attend_gradients(call, task, workers_[worker]->workspace());
  });
  SumGradients(sequences);
  partial_ = Mapping();
  return absl::OkStatus();
}

void AttentionFunction::SumGradients(absl::Span<const AttentionSequence> sequences) {
  const int kv_heads = cache_.spec().num_kv_heads, head_dim = cache_.spec().head_dim;
  // [sequence * kv_heads + head]: its first task; they are neighbours.
  std::vector<int> first;
  for (size_t i = 0; i < gradient_tasks_.size(); i++) {
    if (gradient_tasks_[i].rows.token_begin == 0) first.push_back(static_cast<int>(i));
  }
  first.push_back(static_cast<int>(gradient_tasks_.size()));
  pool_.ParallelFor(int64_t{kv_heads} * sequences.size(), [&](int64_t unit, int) {
    const AttentionSequence& s = sequences[unit / kv_heads];
    const int64_t head = unit % kv_heads;
    for (int64_t key = 0; key < s.keys; key++) {
      float *dk = s.dk.at(key, head), *dv = s.dv.at(key, head);
      std::copy_n(gradient_tasks_[first[unit]].dk + key * head_dim, head_dim, dk);
      std::copy_n(gradient_tasks_[first[unit]].dv + key * head_dim, head_dim, dv);
      for (int i = first[unit] + 1; i < first[unit + 1]; i++) {
        const GradientTask& part = gradient_tasks_[i];
        for (int d = 0; d < head_dim; d++) {
          dk[d] += part.dk[key * head_dim + d];
          dv[d] += part.dv[key * head_dim + d];
        }
      }
    }
  });
}

}  // namespace tauserve::cpu
