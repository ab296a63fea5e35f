// What the reduction has left to do, and whether a large eigenvalue may hide there.
#pragma once

#include "trailing_matrix.h"

namespace svdprune::cpu {

template <class T>
class Remainder {
 public:
  explicit Remainder(TrailingMatrix<T>& trailing)
      : trailing_(trailing),
        first_(trailing.first()),
        order_(trailing.order() - trailing.first()) {}

  // Whether the trailing matrix has no eigenvalue above `limit`. True is a proof, or, where none is cheap, wrong with
  // probability below 3e-8; see Note [hidden eigenvalues] in ../hidden_eigenvalues.h.
  bool lies_below(double limit) const;

 private:
  double eigenvalue_bound() const;
  bool probe_misses(double limit) const;

  TrailingMatrix<T>& trailing_;
  int64_t first_, order_;
};

}  // namespace svdprune::cpu
