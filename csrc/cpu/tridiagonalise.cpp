#include "tridiagonalise.h"

#include "clones.h"

#include <algorithm>
#include <cmath>

namespace svdprune::cpu {

namespace {

constexpr int64_t kColumns = 4;  // columns a sweep takes together, sharing loads of v, w and y

// For the lower triangle of a[first:, first:]: a -= p q^T + q p^T, then y = a v (symmetric
// product). All vectors are indexed as a is.
template <class T>
[[gnu::always_inline]] inline void sweep_body(int64_t n, int64_t first, T* __restrict a,
                                              const T* __restrict p, const T* __restrict q,
                                              const T* __restrict v, T* __restrict y) {
  std::fill(y + first, y + n, T(0));
  int64_t j = first;
  for (; j + kColumns <= n; j += kColumns) {
    // The corner, row by row.
    for (int64_t c = j; c < j + kColumns; ++c) {
      T* column = a + c * n;
      column[c] -= 2 * p[c] * q[c];
      y[c] += column[c] * v[c];
      for (int64_t i = c + 1; i < j + kColumns; ++i) {
        column[i] -= p[i] * q[c] + q[i] * p[c];
        y[i] += column[i] * v[c];
        y[c] += column[i] * v[i];
      }
    }
    T* __restrict a0 = a + j * n;
    T* __restrict a1 = a0 + n;
    T* __restrict a2 = a1 + n;
    T* __restrict a3 = a2 + n;
    const T p0 = p[j], p1 = p[j + 1], p2 = p[j + 2], p3 = p[j + 3];
    const T q0 = q[j], q1 = q[j + 1], q2 = q[j + 2], q3 = q[j + 3];
    const T v0 = v[j], v1 = v[j + 1], v2 = v[j + 2], v3 = v[j + 3];
    T s0 = 0, s1 = 0, s2 = 0, s3 = 0;
#pragma omp simd reduction(+ : s0, s1, s2, s3)
    for (int64_t i = j + kColumns; i < n; ++i) {
      const T b0 = a0[i] - p[i] * q0 - q[i] * p0;
      const T b1 = a1[i] - p[i] * q1 - q[i] * p1;
      const T b2 = a2[i] - p[i] * q2 - q[i] * p2;
      const T b3 = a3[i] - p[i] * q3 - q[i] * p3;
      a0[i] = b0;
      a1[i] = b1;
      a2[i] = b2;
      a3[i] = b3;
      s0 += b0 * v[i];
      s1 += b1 * v[i];
      s2 += b2 * v[i];
      s3 += b3 * v[i];
      y[i] += b0 * v0 + b1 * v1 + b2 * v2 + b3 * v3;
    }
    y[j] += s0;
    y[j + 1] += s1;
    y[j + 2] += s2;
    y[j + 3] += s3;
  }
  for (; j < n; ++j) {
    T* column = a + j * n;
    column[j] -= 2 * p[j] * q[j];
    y[j] += column[j] * v[j];
    for (int64_t i = j + 1; i < n; ++i) {
      column[i] -= p[i] * q[j] + q[i] * p[j];
      y[i] += column[i] * v[j];
      y[j] += column[i] * v[i];
    }
  }
}

SVDPRUNE_CLONES void sweep(int64_t n, int64_t first, float* a, const float* p, const float* q,
                           const float* v, float* y) {
  sweep_body(n, first, a, p, q, v, y);
}

SVDPRUNE_CLONES void sweep(int64_t n, int64_t first, double* a, const double* p, const double* q,
                           const double* v, double* y) {
  sweep_body(n, first, a, p, q, v, y);
}

template <class T>
double dot(const T* x, const T* y, int64_t n) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) {
    sum += static_cast<double>(x[i]) * y[i];
  }
  return sum;
}

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
  const T scale = static_cast<T>(1 / (alpha - beta));
  for (int64_t i = 1; i < length; ++i) {
    x[i] *= scale;
  }
  return {beta, (beta - alpha) / beta};
}

}  // namespace

template <class T>
double Remainder<T>::largest_eigenvalue_bound() const {
  double square = 0, trace = 0;
  for (int64_t j = first; j < n; ++j) {
    const T* column = a + j * n;
    const T pj = pending_v[j], qj = pending_w[j];
    double below = 0;
#pragma omp simd reduction(+ : below)
    for (int64_t i = j + 1; i < n; ++i) {
      const double value = column[i] - pending_v[i] * qj - pending_w[i] * pj;
      below += value * value;
    }
    const double corner = column[j] - 2 * pj * qj;
    square += 2 * below + corner * corner;
    trace += corner;
  }
  const double order = static_cast<double>(n - first);
  const double spread = std::max(0.0, square - trace * trace / order);
  return trace / order + std::sqrt((order - 1) / order * spread);
}

template <class T>
Tridiagonal<T> tridiagonalise(
    int64_t n, T* a, const std::vector<int64_t>& checks,
    const std::function<bool(const Tridiagonal<T>&, const Remainder<T>&)>& enough) {
  Tridiagonal<T> result;
  std::vector<T> v(n, 0), w(n, 0), next_v(n), y(n);
  auto check = checks.begin();
  for (int64_t k = 0; k < n; ++k) {
    // Column k, with the pending update.
    T* column = a + k * n;
    for (int64_t i = k; i < n; ++i) {
      column[i] -= v[i] * w[k] + w[i] * v[k];
    }
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
    if (check != checks.end() && *check == result.steps) {
      ++check;
      if (enough(result, Remainder<T>{n, first, a, v.data(), w.data()})) {
        break;
      }
    }
    std::copy(column + first, column + n, next_v.begin() + first);
    sweep(n, first, a, v.data(), w.data(), next_v.data(), y.data());
    v.swap(next_v);
    const double half = 0.5 * tau * tau * dot(v.data() + first, y.data() + first, n - first);
    for (int64_t i = first; i < n; ++i) {
      w[i] = static_cast<T>(tau * y[i] - half * v[i]);
    }
  }
  return result;
}

template struct Remainder<float>;
template struct Remainder<double>;
template Tridiagonal<float> tridiagonalise(
    int64_t, float*, const std::vector<int64_t>&,
    const std::function<bool(const Tridiagonal<float>&, const Remainder<float>&)>&);
template Tridiagonal<double> tridiagonalise(
    int64_t, double*, const std::vector<int64_t>&,
    const std::function<bool(const Tridiagonal<double>&, const Remainder<double>&)>&);

}  // namespace svdprune::cpu
