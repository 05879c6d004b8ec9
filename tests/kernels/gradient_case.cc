#include "tests/kernels/gradient_case.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <random>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/cpu/attention_function.h"
#include "kernels/reference/attention_gradient.h"
#include "tests/kernels/case_inputs.h"
#include "tests/kernels/test_device.h"

namespace tauserve {
namespace {

struct Tensors {
  std::vector<float> q, dout, k, v;  // [tokens][heads][head_dim], sequences one behind the other
};

Tensors MakeTensors(const GradientCase& c, DataType kv_type, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  int queries = 0, keys = 0;
  for (const auto& [q, k] : c.lengths) queries += q, keys += k;
  Tensors t;
  t.q.resize(size_t(queries) * c.num_heads * c.head_dim);
  t.k.resize(size_t(keys) * c.num_kv_heads * c.head_dim);
  t.dout.resize(t.q.size());
  t.v.resize(t.k.size());
  const float spread = std::sqrt(c.sigma);
  for (float& x : t.q) x = normal(random) * spread;
  for (float& x : t.k) x = normal(random) * spread;
  for (float& x : t.v) x = normal(random);
  for (float& x : t.dout) x = normal(random);
  int query = 0, key = 0;
  for (const auto& [n, m] : c.lengths) {
    for (int i = 0; i < n * c.num_heads && c.fill_query; i++) {
      c.fill_query(m - n + i / c.num_heads, i % c.num_heads,
                   &t.q[size_t(query * c.num_heads + i) * c.head_dim]);
    }
    for (int i = 0; i < m * c.num_kv_heads && c.fill_key; i++) {
      const size_t at = size_t(key * c.num_kv_heads + i) * c.head_dim;
      c.fill_key(i / c.num_kv_heads, i % c.num_kv_heads, &t.k[at], &t.v[at]);
    }
    query += n, key += m;
  }
  if (kv_type == DataType::kBFloat16) {
    for (std::vector<float>* x : {&t.q, &t.dout, &t.k, &t.v}) Round(*x);
  }
  return t;
}

void AddHead(const std::vector<double>& rows, int from, int heads, int head, int dim,
             std::vector<double>& to) {
  for (size_t i = 0; i < rows.size(); i++) {
    to[((from + i / dim) * heads + head) * dim + i % dim] += rows[i];
  }
}

struct Expected {
  std::vector<double> dq, dk, dv, tau;
};

// For alpha > 1.5 a weight's slope rises infinitely fast from zero above the threshold (at 2 it jumps): what rounding makes
// of a score there decides. Rows with such a key get no gradient of their output, so that they tell nothing.
void SilenceRow(const reference::Row& row, const reference::RowResult& forward, double* dout) {
  if (row.alpha <= 1.5) return;
  for (double margin : forward.margins) {
    if (std::abs(margin) < 1e-2) std::fill_n(dout, row.head_dim, 0.0);
  }
}

// Silences rows of `t` where it must.
Expected Oracle(const GradientCase& c, Tensors& t) {
  const AttentionSpec spec = MakeSpec(c);
  const int dim = c.head_dim, group = c.num_heads / c.num_kv_heads;
  Expected e;
  e.dq.resize(t.q.size());
  e.dk.resize(t.k.size());
  e.dv.resize(t.v.size());
  e.tau.resize(t.q.size() / dim);
  int query = 0, key = 0;
  for (const auto& [n, m] : c.lengths) {
    for (int h = 0; h < c.num_heads; h++) {
      const auto q = HeadRows(t.q, query, n, c.num_heads, h, dim);
      auto dout = HeadRows(t.dout, query, n, c.num_heads, h, dim);
      const auto k = HeadRows(t.k, key, m, c.num_kv_heads, h / group, dim);
      const auto v = HeadRows(t.v, key, m, c.num_kv_heads, h / group, dim);
      std::vector<double> dq, dk(k.size()), dv(v.size());
      for (int i = 0; i < n; i++) {
        const int position = m - n + i;
        reference::Row row;
        row.q = &q[i * dim];
        row.keys = k.data();
        row.values = v.data();
        row.head_dim = dim;
        row.last = c.causal ? position + 1 : m;
        row.first = c.sliding_window > 0 ? std::max(0, position + 1 - c.sliding_window) : 0;
        row.score_scale = spec.scale;
        row.alibi_slope = spec.alibi_slope[h];
        row.alpha = spec.alpha[h];
        const reference::RowResult forward = reference::Attend(row);
        SilenceRow(row, forward, &dout[i * dim]);
        std::copy_n(&dout[i * dim], dim, &t.dout[(size_t(query + i) * c.num_heads + h) * dim]);
        const auto gradient =
            reference::Backward(row, forward, &dout[i * dim], dk.data(), dv.data());
        dq.insert(dq.end(), gradient.begin(), gradient.end());
        e.tau[(query + i) * c.num_heads + h] = forward.tau;
      }
      AddHead(dq, query, c.num_heads, h, dim, e.dq);
      AddHead(dk, key, c.num_kv_heads, h / group, dim, e.dk);
      AddHead(dv, key, c.num_kv_heads, h / group, dim, e.dv);
    }
    query += n, key += m;
  }
  return e;
}

cpu::HeadRows View(std::vector<float>& x, int from, int heads, int dim) {
  return {x.data() + size_t(from) * heads * dim, int64_t{heads} * dim, dim};
}

Gradients Run(const GradientCase& c, DataType kv_type, const std::string& isa, int threads,
              Tensors t) {
  setenv("TAUSERVE_CPU_ISA", isa.c_str(), 1);
  auto function = cpu::AttentionFunction::Create(threads, kv_type);
  unsetenv("TAUSERVE_CPU_ISA");
  EXPECT_TRUE(function.ok()) << function.status();
  const float nan = std::nanf("");
  const int dim = c.head_dim;
  Gradients g;
  g.dq.assign(t.q.size(), nan);
  g.dk.assign(t.k.size(), nan);
  g.dv.assign(t.v.size(), nan);
  g.tau.assign(t.q.size() / dim, nan);
  std::vector<float> out(t.q.size(), nan);
  const int64_t rows = t.q.size() / dim / c.num_heads;
  std::vector<cpu::AttentionSequence> sequences;
  int query = 0, key = 0;
  for (const auto& [n, m] : c.lengths) {
    cpu::AttentionSequence s;
    s.queries = n;
    s.keys = m;
    s.q = View(t.q, query, c.num_heads, dim);
    s.out = View(out, query, c.num_heads, dim);
    s.dout = View(t.dout, query, c.num_heads, dim);
    s.dq = View(g.dq, query, c.num_heads, dim);
    s.k = View(t.k, key, c.num_kv_heads, dim);
    s.v = View(t.v, key, c.num_kv_heads, dim);
    s.dk = View(g.dk, key, c.num_kv_heads, dim);
    s.dv = View(g.dv, key, c.num_kv_heads, dim);
    s.tau = g.tau.data() + query;
    s.tau_head_stride = rows;
    sequences.push_back(s);
    query += n, key += m;
  }
  const AttentionSpec spec = MakeSpec(c);
  EXPECT_TRUE((*function)->Forward(spec, sequences).ok());
  EXPECT_TRUE((*function)->Backward(spec, sequences).ok());
  return g;
}

double Norm(const double* x, int n) {
  double sum = 0;
  for (int i = 0; i < n; i++) sum += x[i] * x[i];
  return std::sqrt(sum);
}

double MeanNorm(const std::vector<double>& x, int dim) {
  double sum = 0;
  for (size_t at = 0; at < x.size(); at += dim) sum += Norm(&x[at], dim);
  return sum * dim / x.size();
}

double WorstRow(const std::vector<float>& got, const std::vector<double>& expected, int dim,
                double least_norm) {
  double worst = 0;
  for (size_t at = 0; at < expected.size(); at += dim) {
    std::vector<double> off(dim);
    for (int d = 0; d < dim; d++) off[d] = got[at + d] - expected[at + d];
    const double error = Norm(off.data(), dim) / std::max(Norm(&expected[at], dim), least_norm);
    if (!(error <= worst)) worst = error;
  }
  return worst;
}

}  // namespace

std::string GradientCase::ToString() const {
  std::string s =
      absl::StrCat(num_heads, "/", num_kv_heads, " heads of ", head_dim, ", window ",
                   sliding_window, causal ? ", causal" : "", ", alpha ", absl::StrJoin(alpha, " "),
                   ", slopes ", absl::StrJoin(slope, " "), ", sigma ", sigma, ", lengths");
  for (const auto& [n, m] : lengths) absl::StrAppend(&s, " ", n, "/", m);
  return s;
}

Gradients RunGradients(const GradientCase& c, DataType kv_type, const std::string& isa, int threads,
                       uint32_t seed) {
  return Run(c, kv_type, isa, threads, MakeTensors(c, kv_type, seed));
}

double GradientError(const GradientCase& c, DataType kv_type, uint32_t seed) {
  SCOPED_TRACE(absl::StrCat("seed ", seed, ": ", c.ToString()));
  Tensors t = MakeTensors(c, kv_type, seed);
  const Expected e = Oracle(c, t);
  // A gradient that cancels to nothing, as dq does where all keys are equal, is judged by the others.
  const double mean = std::max(
      {MeanNorm(e.dq, c.head_dim), MeanNorm(e.dk, c.head_dim), MeanNorm(e.dv, c.head_dim)});
  double worst = 0;
  for (const std::string& isa : TestTargets()) {
    SCOPED_TRACE(isa);
    const Gradients g = Run(c, kv_type, isa, 2, t);
    const std::pair<const std::vector<float>*, const std::vector<double>*> pairs[] = {
        {&g.dq, &e.dq}, {&g.dk, &e.dk}, {&g.dv, &e.dv}};
    for (const auto& [got, expected] : pairs) {
      const double error = WorstRow(*got, *expected, c.head_dim, mean);
      if (!(error <= worst)) worst = error;
    }
    const size_t rows = e.tau.size() / c.num_heads;
    for (size_t i = 0; i < e.tau.size(); i++) {
      const double tau = e.tau[i];
      const int head = static_cast<int>(i % c.num_heads);
      const float got = g.tau[head * rows + i / c.num_heads];
      // Softmax weights that are rounded to bfloat16 are exponentials to 1e-4, and so is their sum.
      const bool rough = kv_type == DataType::kBFloat16 && c.alpha[head % c.alpha.size()] == 1;
      EXPECT_NEAR(got, tau, (rough ? 1e-4 : 2e-5) * std::max(1.0, std::abs(tau))) << "row " << i;
    }
  }
  return worst;
}

}  // namespace tauserve
