#include "kernels/reference/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace tauserve::reference {

double Gap(const std::vector<double>& a, double alpha) {
  const double max = *std::max_element(a.begin(), a.end());
  const double exponent = 1 / (alpha - 1);
  double lo = 0, hi = 1;
  while (true) {
    const double middle = 0.5 * (lo + hi);
    if (middle <= lo || middle >= hi) return hi;
    double sum = 0;
    for (double x : a) {
      const double z = middle + (alpha - 1) * (x - max);
      if (z > 0) sum += std::pow(z, exponent);
    }
    (sum > 1 ? hi : lo) = middle;
  }
}

namespace {

// `gap`: Gap(a, alpha), for softmax anything.
std::vector<double> WeightsOfGap(const std::vector<double>& a, double alpha, double gap) {
  const double max = *std::max_element(a.begin(), a.end());
  std::vector<double> p(a.size());
  double sum = 0;
  for (size_t j = 0; j < a.size(); j++) {
    const double z = gap + (alpha - 1) * (a[j] - max);
    p[j] = alpha == 1 ? std::exp(a[j] - max) : z > 0 ? std::pow(z, 1 / (alpha - 1)) : 0;
    sum += p[j];
  }
  for (double& x : p) x /= sum;
  return p;
}

}  // namespace

std::vector<double> Weights(const std::vector<double>& a, double alpha) {
  return WeightsOfGap(a, alpha, alpha == 1 ? 0 : Gap(a, alpha));
}

RowResult Attend(const Row& row) {
  std::vector<double> a(row.last - row.first);
  for (int j = row.first; j < row.last; j++) {
    double dot = 0;
    for (int d = 0; d < row.head_dim; d++) dot += row.q[d] * row.keys[j * row.head_dim + d];
    a[j - row.first] = row.score_scale * dot + row.alibi_slope * (j - (row.last - 1));
  }
  RowResult result;
  const double gap = row.alpha == 1 ? 0 : Gap(a, row.alpha);
  result.weights = WeightsOfGap(a, row.alpha, gap);
  const double max = *std::max_element(a.begin(), a.end());
  if (row.alpha == 1) {
    result.tau = max - std::log(*std::max_element(result.weights.begin(), result.weights.end()));
  } else {
    result.tau = (row.alpha - 1) * max - gap;
    for (double x : a) result.margins.push_back(gap + (row.alpha - 1) * (x - max));
  }
  result.out.assign(row.head_dim, 0.0);
  for (int j = row.first; j < row.last; j++) {
    const double p = result.weights[j - row.first];
    if (p == 0) continue;
    for (int d = 0; d < row.head_dim; d++) result.out[d] += p * row.values[j * row.head_dim + d];
  }
  return result;
}

}  // namespace tauserve::reference
