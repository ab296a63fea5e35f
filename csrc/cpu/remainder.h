// What the reduction has left to do, and whether a large eigenvalue may hide there.
#pragma once

#include "symmetric_sweep.h"

namespace svdprune::cpu {

// R = A - v w^T - w v^T on rows and columns first .. n, where A is what the sweeps have made of the matrix.
template <class T>
class Remainder {
 public:
  Remainder(const SymmetricSweep<T>& sweep, int64_t first, const T* v, const T* w)
      : sweep_(sweep), first_(first), order_(sweep.order() - first), v_(v), w_(w) {}

  // Whether R has no eigenvalue above `limit`. True is a proof, or, where none is cheap, wrong with probability
  // below 3e-8; see Note [hidden eigenvalues] in ../hidden_eigenvalues.h.
  bool lies_below(double limit) const;

 private:
  double eigenvalue_bound() const;
  bool probe_misses(double limit) const;
  void multiply(const T* x, T* y) const;

  const SymmetricSweep<T>& sweep_;
  int64_t first_, order_;
  const T *v_, *w_;
};

}  // namespace svdprune::cpu
