// Note [hidden eigenvalues]
// The reduction sees of R only what couples to it, so an eigenvalue of G may hide there: a block of its own, or
// the second copy of a multiple one. Two tests rule that out.
//
// Wolkowicz and Styan (1980) bound the largest eigenvalue of a matrix of order k from its trace t and its
// Frobenius norm f: t / k + sqrt((k - 1) / k (f^2 - t^2 / k)). That costs one pass, and is a proof.
//
// Otherwise a probe: some Lanczos steps from a vector x without direction. If R had an eigenvalue lambda >= limit
// with unit eigenvector u, the share (x . u)^2 / ||x||^2 of x along u could not exceed the Christoffel function
// 1 / sum_j p_j(lambda)^2, p_j being the polynomials of those steps, and above their largest zero it falls as
// lambda grows (Szego, Orthogonal Polynomials, section 3.1). So once 1 / sum_j p_j(limit)^2 is below
// delta^2 / ||x||^2, either there is no such eigenvalue or |x . u| < delta. The entries of x are uniform in
// [-1/2, 1/2], for which the chance of that is at most 2 sqrt(2) delta whatever u is (Ball, Cube slicing in R^n,
// 1986). The p_j grow like Chebyshev polynomials: some 15 products suffice at limit = 2 ||R||.

#include "remainder.h"

#include "vector.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace svdprune::cpu {

namespace {

constexpr double kLeastOverlap = 1e-8;  // delta
constexpr int kMostProducts = 24;  // then going on with the reduction is the better use of time

// Entries uniform in [-1/2, 1/2], the same at each call (splitmix64, Steele et al. 2014).
template <class T>
void fill_probe(T* x, int64_t n) {
  uint64_t state = 0;
  for (int64_t i = 0; i < n; ++i) {
    uint64_t z = state += 0x9e3779b97f4a7c15;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    x[i] = static_cast<T>(std::ldexp(static_cast<double>(z ^ (z >> 31)), -64) - 0.5);
  }
}

}  // namespace

template <class T>
double Remainder<T>::eigenvalue_bound() const {
  double square = 0, trace = 0;
  for (int64_t j = first_; j < first_ + order_; ++j) {
    const T* column = sweep_.column(j);
    const T vj = v_[j], wj = w_[j];
    double below = 0;
#pragma omp simd reduction(+ : below)
    for (int64_t i = j + 1; i < first_ + order_; ++i) {
      const double value = column[i] - v_[i] * wj - w_[i] * vj;
      below += value * value;
    }
    const double corner = column[j] - 2 * vj * wj;
    square += 2 * below + corner * corner;
    trace += corner;
  }
  const double k = static_cast<double>(order_);
  const double spread = std::max(0.0, square - trace * trace / k);
  return trace / k + std::sqrt((k - 1) / k * spread);
}

// y = R x; both indexed as the whole matrix is.
template <class T>
void Remainder<T>::multiply(const T* x, T* y) const {
  sweep_.multiply(first_, x, y);
  const T vx = static_cast<T>(dot(v_ + first_, x + first_, order_));
  const T wx = static_cast<T>(dot(w_ + first_, x + first_, order_));
  for (int64_t i = first_; i < first_ + order_; ++i) {
    y[i] -= v_[i] * wx + w_[i] * vx;
  }
}

template <class T>
bool Remainder<T>::probe_misses(double limit) const {
  std::vector<T> q(sweep_.order()), before(sweep_.order(), 0), product(sweep_.order());
  fill_probe(q.data() + first_, order_);
  const double square = dot(q.data() + first_, q.data() + first_, order_);
  const T scale = static_cast<T>(1 / std::sqrt(square));
  std::for_each(q.begin() + first_, q.end(), [=](T& value) { value *= scale; });

  double p = 1, p_before = 0, beta_before = 0, sum = 1;
  for (int step = 0; step < kMostProducts; ++step) {
    multiply(q.data(), product.data());
    const double alpha = dot(q.data() + first_, product.data() + first_, order_);
    for (int64_t i = first_; i < first_ + order_; ++i) {
      product[i] -= static_cast<T>(alpha) * q[i] + static_cast<T>(beta_before) * before[i];
    }
    const double beta = std::sqrt(dot(product.data() + first_, product.data() + first_, order_));
    const double p_next = ((limit - alpha) * p - beta_before * p_before) / beta;
    if (!(p_next > 0)) {
      return false;  // a Ritz value of R lies above the limit, or nothing can be said
    }
    sum += p_next * p_next;
    if (sum * kLeastOverlap * kLeastOverlap > square) {
      return true;
    }
    const T inverse = static_cast<T>(1 / beta);
    before.swap(q);
    std::transform(product.begin() + first_, product.end(), q.begin() + first_,
                   [=](T value) { return value * inverse; });
    p_before = p;
    p = p_next;
    beta_before = beta;
  }
  return false;
}

template <class T>
bool Remainder<T>::lies_below(double limit) const {
  return eigenvalue_bound() < limit || probe_misses(limit);
}

template class Remainder<float>;
template class Remainder<double>;

}  // namespace svdprune::cpu
