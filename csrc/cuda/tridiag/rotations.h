// The implicit QL iteration: eigenvalues of a symmetric tridiagonal matrix by sweeps of plane
// rotations, which, applied to the identity, give eigenvectors that are orthogonal whatever the
// spectrum. (Parlett, The Symmetric Eigenvalue Problem, sections 8.10 to 8.13.)
#pragma once

#include "../../host_device.h"

#include <cmath>

namespace svdprune::tridiag {

constexpr double kEpsilon = 0x1p-52;

// Rows first .. last that are joined, none when last == first: the next block to work on.
SVDPRUNE_HOST_DEVICE inline int joined_until(const double* coupling, int m, int first,
                                             double negligible) {
  int last = first;
  while (last + 1 < m && std::fabs(coupling[last]) > negligible) {
    ++last;
  }
  return last;
}

// One sweep over rows first < last, towards the eigenvalue at `first`. Rotation i (first <= i <
// last), applied from the last to the first, turns columns i and i + 1 of the eigenvectors: (z_i,
// z_i+1) -> (cosine[i] z_i - sine[i] z_i+1, sine[i] z_i + cosine[i] z_i+1).
SVDPRUNE_HOST_DEVICE inline void ql_sweep(double* diagonal, double* coupling, int first, int last,
                                          double* cosine, double* sine) {
  // Wilkinson's shift, from the 2 x 2 block at the top.
  const double half = (diagonal[first + 1] - diagonal[first]) / (2 * coupling[first]);
  const double root = std::sqrt(half * half + 1);
  const double shift = diagonal[first] - coupling[first] / (half + (half < 0 ? -root : root));
  // Chases the bulge, which is the element (i, i + 2), upwards.
  double c = 1, s = 1, taken = 0;
  double leading = diagonal[last] - shift;
  for (int i = last - 1; i >= first; --i) {
    const double bulge = s * coupling[i], edge = c * coupling[i];
    const double size = std::sqrt(bulge * bulge + leading * leading);
    if (i + 1 < last) {
      coupling[i + 1] = size;
    }
    s = size > 0 ? bulge / size : 0;
    c = size > 0 ? leading / size : 1;
    const double corner = diagonal[i + 1] - taken;
    const double mixed = (diagonal[i] - corner) * s + 2 * c * edge;
    taken = s * mixed;
    diagonal[i + 1] = corner + taken;
    leading = c * mixed - edge;
    cosine[i] = c;
    sine[i] = s;
  }
  diagonal[first] -= taken;
  coupling[first] = leading;
}

}  // namespace svdprune::tridiag
