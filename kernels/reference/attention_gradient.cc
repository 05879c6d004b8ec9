#include "kernels/reference/attention_gradient.h"

#include <cmath>

namespace tauserve::reference {

std::vector<double> Backward(const Row& row, const RowResult& forward, const double* dout,
                             double* dk, double* dv) {
  const int n = row.last - row.first, dim = row.head_dim;
  // g_j = dp_j / da_j but for what the threshold takes back: p^(2 - alpha) on the support.
  std::vector<double> g(n, 0.0), dp(n, 0.0);
  double sum = 0, product = 0;
  for (int j = 0; j < n; j++) {
    const double p = forward.weights[j];
    if (p > 0) g[j] = std::pow(p, 2 - row.alpha);
    for (int d = 0; d < dim; d++) dp[j] += dout[d] * row.values[(row.first + j) * dim + d];
    sum += g[j];
    product += g[j] * dp[j];
  }
  std::vector<double> dq(dim, 0.0);
  for (int j = 0; j < n; j++) {
    const double ds = row.score_scale * g[j] * (dp[j] - product / sum);
    for (int d = 0; d < dim; d++) {
      const int at = (row.first + j) * dim + d;
      dq[d] += ds * row.keys[at];
      dk[at] += ds * row.q[d];
      dv[at] += forward.weights[j] * dout[d];
    }
  }
  return dq;
}

}  // namespace tauserve::reference
