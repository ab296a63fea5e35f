#include "vector.h"

#include "clones.h"

namespace svdprune::cpu {

namespace {

template <class T>
[[gnu::always_inline]] inline double dot_body(const T* x, const T* y, int64_t n) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) {
    sum += static_cast<double>(x[i]) * y[i];
  }
  return sum;
}

template <class T>
[[gnu::always_inline]] inline void combine_body(double a, const T* x, double b, const T* y,
                                                int64_t n, T* z) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    z[i] = static_cast<T>(a * x[i] + b * y[i]);
  }
}

template <class T>
[[gnu::always_inline]] inline void scale_body(T factor, int64_t n, T* x) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    x[i] *= factor;
  }
}

}  // namespace

SVDPRUNE_CLONES double dot(const float* x, const float* y, int64_t n) {
  return dot_body(x, y, n);
}

SVDPRUNE_CLONES double dot(const double* x, const double* y, int64_t n) {
  return dot_body(x, y, n);
}

SVDPRUNE_CLONES void combine(double a, const float* x, double b, const float* y, int64_t n,
                             float* z) {
  combine_body(a, x, b, y, n, z);
}

SVDPRUNE_CLONES void combine(double a, const double* x, double b, const double* y, int64_t n,
                             double* z) {
  combine_body(a, x, b, y, n, z);
}

SVDPRUNE_CLONES void scale(float factor, int64_t n, float* x) {
  scale_body(factor, n, x);
}

SVDPRUNE_CLONES void scale(double factor, int64_t n, double* x) {
  scale_body(factor, n, x);
}

}  // namespace svdprune::cpu
