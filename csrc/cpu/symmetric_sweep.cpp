#include "symmetric_sweep.h"

#include "clones.h"

#include <algorithm>
#include <cmath>

namespace svdprune::cpu {

namespace {

constexpr int64_t kColumns = 4;  // columns a sweep takes together, sharing loads of v, p, q and y
constexpr int64_t kOrderPerPart = 128;
constexpr int64_t kMostParts = 8;

// For columns begin .. end of the lower triangle of a: a -= p q^T + q p^T if kUpdate, then y = their share of
// the symmetric product a v, from row begin on.
template <bool kUpdate, class T>
[[gnu::always_inline]] inline void sweep_columns(int64_t n, int64_t begin, int64_t end,
                                                 T* __restrict a, const T* __restrict p,
                                                 const T* __restrict q, const T* __restrict v,
                                                 T* __restrict y) {
  std::fill(y + begin, y + n, T(0));
  // Element i of column j, after its update.
  const auto updated = [=](T* column, int64_t i, int64_t j) {
    if constexpr (kUpdate) {
      column[i] -= p[i] * q[j] + q[i] * p[j];
    }
    return column[i];
  };
  // Rows from .. to of column j, which lie below the diagonal.
  const auto below_diagonal = [=](int64_t j, int64_t from, int64_t to) {
    T* column = a + j * n;
    for (int64_t i = from; i < to; ++i) {
      const T value = updated(column, i, j);
      y[i] += value * v[j];
      y[j] += value * v[i];
    }
  };
  int64_t j = begin;
  for (; j + kColumns <= end; j += kColumns) {
    for (int64_t c = j; c < j + kColumns; ++c) {
      y[c] += updated(a + c * n, c, c) * v[c];
      below_diagonal(c, c + 1, j + kColumns);
    }
    T* __restrict a0 = a + j * n;
    T* __restrict a1 = a0 + n;
    T* __restrict a2 = a1 + n;
    T* __restrict a3 = a2 + n;
    const T v0 = v[j], v1 = v[j + 1], v2 = v[j + 2], v3 = v[j + 3];
    T s0 = 0, s1 = 0, s2 = 0, s3 = 0;
    if constexpr (kUpdate) {
      const T p0 = p[j], p1 = p[j + 1], p2 = p[j + 2], p3 = p[j + 3];
      const T q0 = q[j], q1 = q[j + 1], q2 = q[j + 2], q3 = q[j + 3];
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
    } else {
#pragma omp simd reduction(+ : s0, s1, s2, s3)
      for (int64_t i = j + kColumns; i < n; ++i) {
        s0 += a0[i] * v[i];
        s1 += a1[i] * v[i];
        s2 += a2[i] * v[i];
        s3 += a3[i] * v[i];
        y[i] += a0[i] * v0 + a1[i] * v1 + a2[i] * v2 + a3[i] * v3;
      }
    }
    y[j] += s0;
    y[j + 1] += s1;
    y[j + 2] += s2;
    y[j + 3] += s3;
  }
  for (; j < end; ++j) {
    y[j] += updated(a + j * n, j, j) * v[j];
    below_diagonal(j, j + 1, n);
  }
}

SVDPRUNE_CLONES void update_columns(int64_t n, int64_t begin, int64_t end, float* a, const float* p,
                                    const float* q, const float* v, float* y) {
  sweep_columns<true>(n, begin, end, a, p, q, v, y);
}

SVDPRUNE_CLONES void update_columns(int64_t n, int64_t begin, int64_t end, double* a,
                                    const double* p, const double* q, const double* v, double* y) {
  sweep_columns<true>(n, begin, end, a, p, q, v, y);
}

SVDPRUNE_CLONES void multiply_columns(int64_t n, int64_t begin, int64_t end, float* a,
                                      const float* v, float* y) {
  sweep_columns<false, float>(n, begin, end, a, nullptr, nullptr, v, y);
}

SVDPRUNE_CLONES void multiply_columns(int64_t n, int64_t begin, int64_t end, double* a,
                                      const double* v, double* y) {
  sweep_columns<false, double>(n, begin, end, a, nullptr, nullptr, v, y);
}

}  // namespace

template <class T>
SymmetricSweep<T>::SymmetricSweep(Crew& crew, int64_t n, T* a)
    : crew_(crew),
      n_(n),
      a_(a),
      parts_(static_cast<int>(std::clamp<int64_t>(n / kOrderPerPart, 1, kMostParts))),
      products_(parts_ * n) {}

template <class T>
template <class F>
void SymmetricSweep<T>::run(int64_t first, T* y, const F& sweep) const {
  // Columns from b on hold (n - b)^2 / 2 elements. A part has whole groups of columns.
  const auto begin = [&](int part) {
    const double share = 1 - std::sqrt(1 - static_cast<double>(part) / parts_);
    const auto columns = static_cast<int64_t>(share * static_cast<double>(n_ - first));
    return part == parts_ ? n_ : first + columns / kColumns * kColumns;
  };
  crew_.phase(parts_,
              [&](int part) { sweep(begin(part), begin(part + 1), products_.data() + part * n_); });
  std::copy(products_.begin() + first, products_.begin() + n_, y + first);
  for (int part = 1; part < parts_; ++part) {
    const T* product = products_.data() + part * n_;
    for (int64_t i = begin(part); i < n_; ++i) {
      y[i] += product[i];
    }
  }
}

template <class T>
void SymmetricSweep<T>::update_and_multiply(int64_t first, const T* p, const T* q, const T* v,
                                            T* y) const {
  run(first, y, [&](int64_t begin, int64_t end, T* product) {
    update_columns(n_, begin, end, a_, p, q, v, product);
  });
}

template <class T>
void SymmetricSweep<T>::multiply(int64_t first, const T* v, T* y) const {
  run(first, y, [&](int64_t begin, int64_t end, T* product) {
    multiply_columns(n_, begin, end, a_, v, product);
  });
}

template class SymmetricSweep<float>;
template class SymmetricSweep<double>;

}  // namespace svdprune::cpu
