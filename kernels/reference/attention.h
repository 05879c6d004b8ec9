// The oracle: dense attention in double precision, as plain as the formula in kernels/attention.h. Slow on purpose; only
// tests and checks use it.
#ifndef TAUSERVE_KERNELS_REFERENCE_ATTENTION_H_
#define TAUSERVE_KERNELS_REFERENCE_ATTENTION_H_

#include <vector>

namespace tauserve::reference {

// max_j (alpha - 1) a_j - tau, for alpha > 1; by bisection to the last bit of a double.
double Gap(const std::vector<double>& a, double alpha);

// Entmax or softmax (alpha == 1) weights of the scores `a`, which may hold -infinity; sum 1. NaN scores are not
// allowed, and at least one must be finite.
std::vector<double> Weights(const std::vector<double>& a, double alpha);

// One query row. `q` [head_dim], `keys` and `values` [n][head_dim]; the row sees keys [first, last) and stands at
// position last - 1. score_scale = scale * query_scale.
struct Row {
  const double* q = nullptr;
  const double* keys = nullptr;
  const double* values = nullptr;
  int head_dim = 0;
  int first = 0;
  int last = 0;
  double score_scale = 1;
  double alibi_slope = 0;
  double alpha = 1;
};

struct RowResult {
  std::vector<double> out;      // [head_dim]
  std::vector<double> weights;  // of keys [first, last)
  std::vector<double>
      margins;     // alpha > 1: (alpha - 1) a_j - tau of these keys; weight where positive
  double tau = 0;  // the threshold of (alpha - 1) a_j; for softmax the log-sum-exp of a_j
};

RowResult Attend(const Row& row);

}  // namespace tauserve::reference

#endif  // TAUSERVE_KERNELS_REFERENCE_ATTENTION_H_
