#include "remainder.h"

#include "../hidden_eigenvalues.h"
#include "vector.h"

#include <algorithm>
#include <cmath>

namespace svdprune::cpu {

template <class T>
double Remainder<T>::eigenvalue_bound() const {
  double square = 0, trace = 0;
  for (int64_t j = first_; j < first_ + order_; ++j) {
    const T* column = trailing_.column(j);
    double below = 0;
#pragma omp simd reduction(+ : below)
    for (int64_t i = j + 1; i < first_ + order_; ++i) {
      below += static_cast<double>(column[i]) * column[i];
    }
    square += 2 * below + static_cast<double>(column[j]) * column[j];
    trace += column[j];
  }
  return largest_eigenvalue_bound(trace, square, order_);
}

template <class T>
bool Remainder<T>::probe_misses(double limit) const {
  const int64_t n = trailing_.order();
  AlignedArray<T> q = aligned_zeros<T>(n), before = aligned_zeros<T>(n),
                  product = aligned_zeros<T>(n);
  for (int64_t i = 0; i < order_; ++i) {
    q[first_ + i] = static_cast<T>(probe_entry(i));
  }
  Probe probe{dot(q.get() + first_, q.get() + first_, order_), limit};
  scale(static_cast<T>(1 / std::sqrt(probe.square)), order_, q.get() + first_);

  for (int step = 0; step < Probe::kMostSteps; ++step) {
    trailing_.multiply(q.get(), product.get());
    const double alpha = dot(q.get() + first_, product.get() + first_, order_);
    const double beta_before = probe.beta_before;
    for (int64_t i = first_; i < first_ + order_; ++i) {
      product[i] -= static_cast<T>(alpha) * q[i] + static_cast<T>(beta_before) * before[i];
    }
    const double beta = std::sqrt(dot(product.get() + first_, product.get() + first_, order_));
    const Probed found = probe.step(alpha, beta);
    if (found != Probed::kOpen) {
      return found == Probed::kNoneHidden;
    }
    const T inverse = static_cast<T>(1 / beta);
    before.swap(q);
    std::transform(product.get() + first_, product.get() + n, q.get() + first_,
                   [=](T value) { return value * inverse; });
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
