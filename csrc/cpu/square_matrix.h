// A square matrix of which every column begins at a cache line.
#pragma once

#include "aligned.h"

#include <cstdint>

namespace svdprune::cpu {

// Of a column-major matrix of order n: n rounded up to whole cache lines, and one more where columns would be a
// multiple of a page apart, as all of them would then compete for the same places of a cache.
template <class T>
int64_t leading_dimension(int64_t n) {
  constexpr int64_t kLine = kCacheLine / sizeof(T), kPage = 4096 / sizeof(T);
  const int64_t ld = (n + kLine - 1) / kLine * kLine;
  return ld % kPage == 0 ? ld + kLine : ld;
}

// Not initialised.
template <class T>
struct SquareMatrix {
  int64_t n;
  int64_t ld;              // leading dimension
  AlignedArray<T> values;  // column-major, ld numbers a column

  explicit SquareMatrix(int64_t order)
      : n(order), ld(leading_dimension<T>(order)), values(aligned_array<T>(order * ld)) {}

  T* column(int64_t j) {
    return values.get() + j * ld;
  }
  const T* column(int64_t j) const {
    return values.get() + j * ld;
  }
  T at(int64_t i, int64_t j) const {
    return values[i + j * ld];
  }
};

}  // namespace svdprune::cpu
