// Stage 2 of 5, spectrum: the rank, and the leading eigenvectors of the Gram matrix.
#pragma once

#include "gram.h"

namespace svdprune::cpu {

template <class T>
struct Spectrum {
  Side side;
  int64_t n;
  int64_t rank;                // r
  std::vector<T> eigenvalues;  // [r], of the r leading eigenvectors
  std::unique_ptr<T[]> storage;
  const T* basis;         // [n, r], column-major, in `storage`; column j belongs to eigenvalues[j]
  Transform transform;    // of the features, as in Gram
  bool well_conditioned;  // whether U_r = X V_r S_r^-1 is safe; see leverage.cpp
};

// The smallest r whose leading eigenvalues hold at least `variance` of the (non-negative) total.
// eigenvalues: [n], ascending, as LAPACK returns them.
template <class T>
int64_t rank_for_variance(const T* eigenvalues, int64_t n, double variance);

// Consumes the Gram matrix: its memory becomes the basis.
template <class T>
Spectrum<T> spectrum(Gram<T> gram, const Options& options);

}  // namespace svdprune::cpu
