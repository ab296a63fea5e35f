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

}  // namespace

SVDPRUNE_CLONES double dot(const float* x, const float* y, int64_t n) {
  return dot_body(x, y, n);
}

SVDPRUNE_CLONES double dot(const double* x, const double* y, int64_t n) {
  return dot_body(x, y, n);
}

}  // namespace svdprune::cpu
