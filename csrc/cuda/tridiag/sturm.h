// How many eigenvalues of a symmetric tridiagonal matrix lie above a number.
//
// Note [division-free Sturm count]
// The leading principal minors of T - x I obey p_i = (t_i - x) p_i-1 - c_i-1^2 p_i-2, and p_i / p_i-1
// are the pivots of its LDL^T: as many are positive as there are eigenvalues above x (Sylvester).
// Signs are all that counts, so no quotient is formed: an eigenvalue costs a few multiplications a
// row in place of a division. With entries of at most 1 in size a minor grows by less than 2 a row;
// every fourth row brings both of them back to about 1 by a power of two.
#pragma once

#include "../../host_device.h"

#include <cmath>
#include <cstdint>
#include <cstring>

namespace svdprune::tridiag {

// 2^-k for a number m 2^k with 1 <= m < 2; finite for 0 too.
SVDPRUNE_HOST_DEVICE inline double inverse_exponent(double size) {
  uint64_t bits;
  std::memcpy(&bits, &size, sizeof bits);
  bits = (2046 - (bits >> 52)) << 52;
  double scale;
  std::memcpy(&scale, &bits, sizeof scale);
  return scale;
}

// T [m, m] with |entries| <= 1: diagonal [m], coupling [m - 1] joins i and i + 1. |x| <= 1.01.
SVDPRUNE_HOST_DEVICE inline int eigenvalues_above(const double* diagonal, const double* coupling,
                                                  int m, double x) {
  constexpr double kTiny =
      0x1p-200;  // far below rounding; after a minor of 0 the next one is not 0
  double before = 1, minor = diagonal[0] - x;
  int above = 0;
  for (int i = 0;; ++i) {
    above += (minor < 0) == (before < 0);
    if (i + 1 == m) {
      return above;
    }
    const double square = coupling[i] * coupling[i] + kTiny;
    const double next = (diagonal[i + 1] - x) * minor - square * before;
    before = minor;
    minor = next;
    if ((i & 3) == 3) {
      const double scale = inverse_exponent(std::fmax(std::fabs(before), std::fabs(minor)));
      before *= scale;
      minor *= scale;
    }
  }
}

}  // namespace svdprune::tridiag
