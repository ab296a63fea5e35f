#include "tridiagonalise.h"

#include "vector.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace svdprune::cpu {

namespace {

struct Reflection {
  double beta, tau;
};

// x [length] -> v with v[0] = 1, such that (I - tau v v^T) x = (beta, 0, ..., 0).
template <class T>
Reflection reflect(T* x, int64_t length) {
  const double alpha = x[0];
  const double tail = dot(x + 1, x + 1, length - 1);
  x[0] = 1;
  if (tail == 0) {
    return {alpha, 0};
  }
  const double beta = -std::copysign(std::sqrt(alpha * alpha + tail), alpha);
  const double inverse = 1 / (alpha - beta);
  if (std::fabs(inverse) <= std::numeric_limits<T>::max()) {
    scale(static_cast<T>(inverse), length - 1, x + 1);
  } else {  // what is left of the matrix is next to nothing
    std::transform(x + 1, x + length, x + 1,
                   [=](T entry) { return static_cast<T>(inverse * entry); });
  }
  return {beta, (beta - alpha) / beta};
}

}  // namespace

template <class T>
Tridiagonal<T> tridiagonalise(
    Crew& crew, SquareMatrix<T>& a,
    const std::function<bool(const Tridiagonal<T>&, const Remainder<T>&)>& enough) {
  Tridiagonal<T> result;
  const int64_t n = a.n;
  TrailingMatrix<T> trailing(crew, a);
  const AlignedArray<T> v = aligned_zeros<T>(n), w = aligned_zeros<T>(n), y = aligned_zeros<T>(n);
  for (int64_t k = 0; k < n; ++k) {
    T* column = trailing.take_column();
    result.diagonal.push_back(column[k]);
    result.steps = k + 1;
    if (k + 1 == n) {
      result.coupling.push_back(0);
      result.tau.push_back(0);
      break;
    }
    const int64_t first = k + 1;
    const auto [beta, tau] = reflect(column + first, n - first);
    result.coupling.push_back(beta);
    result.tau.push_back(static_cast<T>(tau));
    if (enough(result, Remainder<T>(trailing))) {
      break;
    }
    v[k] = w[k] = 0;
    std::copy(column + first, column + n, v.get() + first);
    trailing.multiply(v.get(), y.get());
    const double half = 0.5 * tau * tau * dot(v.get() + first, y.get() + first, n - first);
    combine(tau, y.get() + first, -half, v.get() + first, n - first, w.get() + first);
    trailing.subtract(v.get(), w.get());
  }
  return result;
}

template Tridiagonal<float> tridiagonalise(
    Crew&, SquareMatrix<float>&,
    const std::function<bool(const Tridiagonal<float>&, const Remainder<float>&)>&);
template Tridiagonal<double> tridiagonalise(
    Crew&, SquareMatrix<double>&,
    const std::function<bool(const Tridiagonal<double>&, const Remainder<double>&)>&);

}  // namespace svdprune::cpu
