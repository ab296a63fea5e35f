// One pass over the lower triangle of a symmetric matrix: a rank-2 update and a product, together.
#pragma once

#include "crew.h"

#include <cstdint>
#include <vector>

namespace svdprune::cpu {

// Works on a[first:, first:] of a [n, n], column-major, lower triangle. All vectors are indexed as a is. The
// columns are cut into parts of equal area, whose products are summed in their order: the result depends on n
// alone, not on the crew.
template <class T>
class SymmetricSweep {
 public:
  SymmetricSweep(Crew& crew, int64_t n, T* a);

  // a -= p q^T + q p^T, then y = a v.
  void update_and_multiply(int64_t first, const T* p, const T* q, const T* v, T* y) const;

  // y = a v.
  void multiply(int64_t first, const T* v, T* y) const;

  int64_t order() const {
    return n_;
  }
  const T* column(int64_t j) const {
    return a_ + j * n_;
  }

 private:
  template <class F>
  void run(int64_t first, T* y, const F& sweep) const;

  Crew& crew_;
  int64_t n_;
  T* a_;
  int parts_;
  mutable std::vector<T> products_;  // [parts, n]
};

}  // namespace svdprune::cpu
