#include <algorithm>
#include <cmath>
#include <numeric>
#include <thread>

#include "kernels/cuda/prefill_plan.h"
#include "kernels/reference/attention_gradient.h"
#include "tests/gpu/backward_case.h"
#include "tests/gpu/normal.h"

namespace tauserve::cuda {
namespace {

template <typename Element>
__global__ void FillNormal(Element* to, int64_t n, int dim, float scale, uint64_t seed,
                           TrainedKeys keys, bool queries) {
  for (int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x; i < n;
       i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    float x = Normal(keys == TrainedKeys::kEqual && !queries ? i % dim : i, seed) * scale;
    const int64_t row = i / dim;
    if (keys == TrainedKeys::kFewLarge && !queries && row % 100 == 7) x *= 6;
    // Every query has much of the first element, and few keys do.
    if (keys == TrainedKeys::kSink && i % dim == 0) x = queries || row < 8 ? 6.0f * scale : 0.0f;
    to[i] = static_cast<Element>(x);
  }
}

template <typename Element>
void Fill(const DeviceArray<Element>& to, int dim, float scale, uint64_t seed,
          TrainedKeys keys = TrainedKeys::kNormal, bool queries = false) {
  FillNormal<<<2048, 256>>>(to.get(), to.size(), dim, scale, seed, keys, queries);
  REQUIRE_CUDA(cudaGetLastError());
}

template <typename Element>
std::vector<double> Doubles(const std::vector<Element>& x) {
  std::vector<double> y(x.size());
  for (size_t i = 0; i < x.size(); i++) y[i] = static_cast<float>(x[i]);
  return y;
}

// Of the sum of |terms| of a row's dQ, before what the threshold takes back.
double NormOfTerms(const reference::Row& row, const reference::RowResult& forward,
                   const double* d_out) {
  std::vector<double> terms(row.head_dim);
  for (int j = row.first; j < row.last; j++) {
    const double p = forward.weights[j - row.first];
    if (p == 0) continue;
    const double* const key = &row.keys[int64_t{j} * row.head_dim];
    const double* const value = &row.values[int64_t{j} * row.head_dim];
    const double d_weight = std::inner_product(d_out, d_out + row.head_dim, value, 0.0);
    const double factor = row.score_scale * std::pow(p, 2 - row.alpha) * d_weight;
    for (int d = 0; d < row.head_dim; d++) terms[d] += std::abs(factor * key[d]);
  }
  return std::sqrt(std::inner_product(terms.begin(), terms.end(), terms.begin(), 0.0));
}

}  // namespace

template <typename Element>
BackwardProblem<Element>::BackwardProblem(const BackwardCase& c) : case_(c) {
  TrainingBatch batch;
  int64_t tokens = 0, keys = 0;
  for (const auto& [n, context] : c.sequences) {
    host_sequences_.push_back({static_cast<int>(tokens), n, static_cast<int>(keys), n + context});
    tokens += n;
    keys += n + context;
  }
  for (int h = 0; h < c.heads; h++) {
    host_heads_.push_back({c.alpha[h % c.alpha.size()], c.slope[h % c.slope.size()]});
  }
  sequences_ = DeviceArray<TrainedSequence>(host_sequences_.size());
  sequences_.Set(host_sequences_);
  heads_ = DeviceArray<Head>(host_heads_.size());
  heads_.Set(host_heads_);
  batch.sequences = sequences_.get();
  batch.host_sequences = host_sequences_.data();
  batch.num_sequences = static_cast<int>(host_sequences_.size());
  batch.num_tokens = static_cast<int>(tokens);
  batch.num_keys = static_cast<int>(keys);
  batch.heads = heads_.get();
  batch.host_heads = host_heads_.data();
  batch.num_heads = c.heads;
  batch.num_kv_heads = c.kv_heads;
  batch.head_dim = c.dim;
  batch.scale = 1 / std::sqrt(static_cast<float>(c.dim));
  batch.sliding_window = c.window;
  batch.causal = c.causal;

  const int64_t rows = tokens * c.heads;
  for (auto* x : {&q_, &out_, &d_out_, &dq_}) *x = DeviceArray<Element>(rows * c.dim);
  for (auto* x : {&k_, &v_, &dk_, &dv_}) {
    *x = DeviceArray<Element>(keys * c.kv_heads * c.dim);
  }
  const float scale = std::sqrt(c.sigma);
  Fill(q_, c.dim, scale * c.query_size, 1, c.keys, /*queries=*/true);
  Fill(k_, c.dim, scale / c.query_size, 2, c.keys);
  Fill(v_, c.dim, c.value_size, 3);
  Fill(d_out_, c.dim, c.gradient_size, 4);
  threshold_ = DeviceArray<float>(rows);
  count_ = DeviceArray<int32_t>(rows);
  first_ = DeviceArray<int64_t>(rows);
  used_ = DeviceArray<unsigned long long>(1);
  KeptSupport kept;
  kept.capacity = static_cast<int64_t>(static_cast<double>(rows) * c.kept_a_row);
  entries_ = DeviceArray<KeptEntry>(kept.capacity);
  kept.threshold = threshold_.get();
  kept.count = count_.get();
  kept.first = first_.get();
  kept.entries = entries_.get();
  kept.used = used_.get();

  static_cast<TrainingBatch&>(forward_) = batch;
  forward_.q = q_.get();
  forward_.k = k_.get();
  forward_.v = v_.get();
  forward_.out = out_.get();
  forward_.kept = kept;
  static_cast<TrainingBatch&>(backward_) = batch;
  backward_.q = q_.get();
  backward_.k = k_.get();
  backward_.v = v_.get();
  backward_.d_out = d_out_.get();
  backward_.dq = dq_.get();
  backward_.dk = dk_.get();
  backward_.dv = dv_.get();
  backward_.kept = kept;
  backward_.deterministic = c.deterministic;
  workspace_ = DeviceArray<char>(
      std::max(TrainingForwardWorkspaceBytes(forward_), BackwardWorkspaceBytes(backward_)));
  workspace_.Fill(0xff);
  forward_.workspace = backward_.workspace = workspace_.get();
  forward_.workspace_bytes = backward_.workspace_bytes = workspace_.size();
  Poison();
}

template <typename Element>
void BackwardProblem<Element>::Poison() {
  for (auto* x : {&out_, &dq_, &dk_, &dv_}) x->Fill(0xff);
  threshold_.Fill(0xff);
  first_.Fill(0xff);
  REQUIRE_CUDA(cudaDeviceSynchronize());
}

template <typename Element>
Gradients BackwardProblem<Element>::Result() const {
  return {Doubles(out_.Get()), Doubles(dq_.Get()), Doubles(dk_.Get()), Doubles(dv_.Get()), {}};
}
template <typename Element>
std::vector<Element> BackwardProblem<Element>::Bits() const {
  std::vector<Element> all;
  for (const auto* x : {&dq_, &dk_, &dv_}) {
    const std::vector<Element> one = x->Get();
    all.insert(all.end(), one.begin(), one.end());
  }
  return all;
}

template <typename Element>
double BackwardProblem<Element>::MeanSupport() const {
  double sum = 0;
  for (int32_t n : count_.Get()) sum += n;
  return sum / num_rows();
}
template <typename Element>
double BackwardProblem<Element>::KeptShare() const {
  double kept = 0;
  for (int64_t first : first_.Get()) kept += first >= 0;
  return kept / num_rows();
}

template <typename Element>
Gradients BackwardProblem<Element>::Reference() const {
  const std::vector<double> q = Doubles(q_.Get()), k = Doubles(k_.Get()), v = Doubles(v_.Get()),
                            d_out = Doubles(d_out_.Get());
  const int dim = case_.dim, group = case_.heads / case_.kv_heads;
  Gradients g;
  g.out.assign(q.size(), 0);
  g.dq.assign(q.size(), 0);
  g.dq_terms.assign(q.size() / dim, 0);
  g.dk.assign(k.size(), 0);
  g.dv.assign(k.size(), 0);
  auto add_head = [&](int kv_head) {  // all rows of a KV head: no other writes its gradients
    for (const TrainedSequence& s : host_sequences_) {
      // Rows of the head alone, as the oracle takes them.
      std::vector<double> keys, values;
      auto key_row = [&](int j) {
        return (static_cast<int64_t>(s.first_key + j) * case_.kv_heads + kv_head) * dim;
      };
      for (int j = 0; j < s.num_keys; j++) {
        keys.insert(keys.end(), &k[key_row(j)], &k[key_row(j)] + dim);
        values.insert(values.end(), &v[key_row(j)], &v[key_row(j)] + dim);
      }
      std::vector<double> dk(keys.size()), dv(keys.size());
      for (int i = 0; i < s.num_tokens * group; i++) {
        const int token = i / group, head = kv_head * group + i % group;
        const int64_t at = static_cast<int64_t>(s.first_token + token) * case_.heads + head;
        const KeyRange range =
            VisibleKeys(s.num_keys - s.num_tokens + token, s.num_keys, case_.causal, case_.window);
        reference::Row row;
        row.q = &q[at * dim];
        row.keys = keys.data();
        row.values = values.data();
        row.head_dim = dim;
        row.first = range.begin;
        row.last = range.end;
        row.score_scale = forward_.scale;
        row.alibi_slope = case_.causal ? host_heads_[head].alibi_slope : 0;
        row.alpha = host_heads_[head].alpha;
        const double* const row_d_out = &d_out[at * dim];
        const reference::RowResult forward = reference::Attend(row);
        const std::vector<double> dq =
            reference::Backward(row, forward, row_d_out, dk.data(), dv.data());
        std::copy(forward.out.begin(), forward.out.end(), &g.out[at * dim]);
        std::copy(dq.begin(), dq.end(), &g.dq[at * dim]);
        g.dq_terms[at] = NormOfTerms(row, forward, row_d_out);
      }
      for (int j = 0; j < s.num_keys; j++) {
        std::copy_n(&dk[int64_t{j} * dim], dim, &g.dk[key_row(j)]);
        std::copy_n(&dv[int64_t{j} * dim], dim, &g.dv[key_row(j)]);
      }
    }
  };
  std::vector<std::thread> threads;
  for (int h = 0; h < case_.kv_heads; h++) threads.emplace_back(add_head, h);
  for (std::thread& t : threads) t.join();
  return g;
}

template class BackwardProblem<__nv_bfloat16>;
template class BackwardProblem<__half>;

}  // namespace tauserve::cuda
