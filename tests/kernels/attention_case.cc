#include "tests/kernels/attention_case.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "kernels/cpu/attention_task.h"
#include "kernels/reference/attention.h"
#include "tests/kernels/case_inputs.h"
#include "tests/kernels/expected_stats.h"
#include "tests/kernels/test_device.h"

namespace tauserve {
namespace {

struct Sequence {
  int tokens = 0;
  std::vector<float> q, k, v, scale;  // [token][heads * head_dim], scale [token][heads]
  std::vector<PageId> pages;
};

Sequence MakeSequence(const AttentionCase& c, int index, bool round, std::mt19937& random) {
  Sequence s;
  for (int n : c.steps[index]) s.tokens += n;
  std::normal_distribution<float> normal;
  const float spread =
      std::sqrt(c.sigma);  // of q and k: a score's deviation is then sigma at scale 1/sqrt(d)
  const int qn = c.num_heads * c.head_dim, kn = c.num_kv_heads * c.head_dim;
  s.q.resize(size_t(s.tokens) * qn);
  s.k.resize(size_t(s.tokens) * kn);
  s.v.resize(size_t(s.tokens) * kn);
  for (float& x : s.q) x = normal(random) * spread;
  for (float& x : s.k) x = normal(random) * spread;
  for (float& x : s.v) x = normal(random);
  if (c.fill) {
    for (int t = 0; t < s.tokens; t++) c.fill(index, t, &s.q[t * qn], &s.k[t * kn], &s.v[t * kn]);
  }
  s.scale.assign(size_t(s.tokens) * c.num_heads, 1.0f);
  if (c.query_scale) {
    std::uniform_real_distribution<float> uniform(-1.5f, 3.0f);
    for (float& x : s.scale) x = uniform(random);
    for (size_t i = 0; i < s.scale.size(); i += 13) s.scale[i] = 0;
  }
  if (round) {
    Round(s.q);
    Round(s.k);
    Round(s.v);
  }
  return s;
}

// Fills every slot of the cache with NaN by appending one sequence that owns all pages.
void PoisonCache(Backend& backend, const KvCacheSpec& spec) {
  std::vector<PageId> all(spec.num_pages);
  std::iota(all.begin(), all.end(), 0);
  const int tokens = spec.num_pages * kPageTokens;
  std::vector<float> nan(size_t(tokens) * spec.num_kv_heads * spec.head_dim, std::nanf(""));
  const int64_t width = int64_t{spec.num_kv_heads} * spec.head_dim;
  const SequenceSlice slice{0, tokens, 0, all.data()};
  backend.BeginStep({&slice, 1});
  const TestMatrix m(backend, tokens, width, nan);
  for (int layer = 0; layer < spec.num_layers; layer++) {
    backend.AppendKv(layer, m.matrix(), m.matrix());
  }
  EXPECT_TRUE(backend.Synchronize().ok());
}

// Prefilled queries are counted in blocks of 64 positions, a few queries in one.
StatsBlock BlockOf(const AttentionCase& c, int sequence, int head, int token) {
  int step = 0, begin = 0;
  while (token >= begin + c.steps[sequence][step]) begin += c.steps[sequence][step++];
  const bool prefill = c.steps[sequence][step] >= cpu::kPrefillTokens;
  return {sequence, step, head, prefill ? token / kPageTokens : -1};
}

}  // namespace

CaseResult RunCase(Backend& backend, const AttentionCase& c, DataType kv_type, uint32_t seed) {
  std::mt19937 random(seed);
  const AttentionSpec spec = MakeSpec(c);
  const int num_sequences = static_cast<int>(c.steps.size());
  std::vector<Sequence> sequences;
  int pages = 1;
  for (int s = 0; s < num_sequences; s++) {
    sequences.push_back(MakeSequence(c, s, kv_type == DataType::kBFloat16, random));
    pages += (sequences[s].tokens + kPageTokens - 1) / kPageTokens;
  }
  std::vector<PageId> ids(pages);
  std::iota(ids.begin(), ids.end(), 0);
  std::shuffle(ids.begin(), ids.end(), random);
  for (Sequence& s : sequences) {
    for (int t = 0; t < s.tokens; t += kPageTokens) {
      s.pages.push_back(ids.back());
      ids.pop_back();
    }
  }
  const KvCacheSpec cache{1, c.num_kv_heads, c.head_dim, pages};
  EXPECT_TRUE(backend.CreateKvCache(cache).ok());
  PoisonCache(backend, cache);

  CaseResult result;
  const int64_t qn = c.num_heads * c.head_dim, kn = c.num_kv_heads * c.head_dim;
  for (const Sequence& s : sequences) result.out.emplace_back(s.tokens * qn);
  std::vector<int> done(num_sequences, 0);
  for (size_t step = 0; step < c.steps[0].size(); step++) {
    std::vector<SequenceSlice> slices;
    std::vector<int> owners;
    std::vector<float> q, k, v, scale;
    int rows = 0;
    for (int s = 0; s < num_sequences; s++) {
      const int n = c.steps[s][step];
      if (n == 0) continue;
      const Sequence& seq = sequences[s];
      auto append = [&](std::vector<float>& to, const std::vector<float>& from, int64_t width) {
        to.insert(to.end(), from.begin() + done[s] * width, from.begin() + (done[s] + n) * width);
      };
      append(q, seq.q, qn);
      append(k, seq.k, kn);
      append(v, seq.v, kn);
      append(scale, seq.scale, c.num_heads);
      slices.push_back({rows, n, done[s], seq.pages.data()});
      owners.push_back(s);
      rows += n;
    }
    const TestMatrix queries(backend, rows, qn, q), keys(backend, rows, kn, k),
        values(backend, rows, kn, v);
    TestMatrix scales(backend, rows, c.num_heads, c.num_heads, DataType::kFloat32);
    scales.Set(scale);
    TestMatrix outputs(backend, rows, qn);
    outputs.Fill(std::nanf(""));
    backend.BeginStep(slices);
    backend.AppendKv(0, keys.matrix(), values.matrix());
    backend.Attention(0, spec, queries.matrix(), c.query_scale ? scales.matrix() : Matrix(),
                      outputs.matrix());
    const absl::Status status = backend.Synchronize();
    EXPECT_TRUE(status.ok()) << status;
    const std::vector<float> out = outputs.Get();
    for (size_t i = 0; i < slices.size(); i++) {
      const int s = owners[i];
      std::copy(out.begin() + slices[i].first_row * qn,
                out.begin() + (slices[i].first_row + slices[i].num_tokens) * qn,
                result.out[s].begin() + done[s] * qn);
      done[s] += slices[i].num_tokens;
      result.stats.Add(backend.stats()[i]);
    }
  }

  ExpectedStats expected;
  for (int s = 0; s < num_sequences; s++) {
    const Sequence& seq = sequences[s];
    std::vector<int> last;  // [tokens]: keys before it are visible
    for (int n : c.steps[s]) {
      const int begin = static_cast<int>(last.size());
      for (int t = begin; t < begin + n; t++) last.push_back(c.causal ? t + 1 : begin + n);
    }
    for (int h = 0; h < c.num_heads; h++) {
      const int group = c.num_heads / c.num_kv_heads;
      const auto q = HeadRows(seq.q, 0, seq.tokens, c.num_heads, h, c.head_dim);
      const auto k = HeadRows(seq.k, 0, seq.tokens, c.num_kv_heads, h / group, c.head_dim);
      const auto v = HeadRows(seq.v, 0, seq.tokens, c.num_kv_heads, h / group, c.head_dim);
      for (int t = 0; t < seq.tokens; t++) {
        reference::Row row;
        row.q = &q[t * c.head_dim];
        row.keys = k.data();
        row.values = v.data();
        row.head_dim = c.head_dim;
        row.last = last[t];
        row.first = c.sliding_window > 0 ? std::max(0, t + 1 - c.sliding_window) : 0;
        row.score_scale = double{spec.scale} * seq.scale[t * c.num_heads + h];
        row.alibi_slope = spec.alibi_slope[h];
        row.alpha = spec.alpha[h];
        const StatsBlock block = BlockOf(c, s, h, t);
        if (t < c.first_checked) {
          expected.AddUnknown(block, row);
          continue;
        }
        const reference::RowResult ref = reference::Attend(row);
        double error = 0, norm = 0;
        for (int d = 0; d < c.head_dim; d++) {
          const double got = result.out[s][t * qn + h * c.head_dim + d];
          error += (got - ref.out[d]) * (got - ref.out[d]);
          norm += ref.out[d] * ref.out[d];
        }
        error = std::sqrt(error / std::max(norm, 1e-30));
        if (!(error <= result.worst_error)) result.worst_error = error;
        expected.Add(block, row, ref);
      }
    }
  }
  expected.Check(result.stats, /*blocks=*/!OnGpu());  // there a small step's rows are blocks too
  EXPECT_EQ(result.stats.unconverged_rows, 0) << "residual " << result.stats.max_tau_residual;
  return result;
}

}  // namespace tauserve
