// How many eigenvalues of a symmetric tridiagonal matrix lie above a number, and the last pivot there.
//
// Note [division-free Sturm count]
// The leading principal minors of T - x I obey p_i = (t_i - x) p_i-1 - c_i-1^2 p_i-2, and p_i / p_i-1
// are the pivots of its LDL^T: as many are positive as there are eigenvalues above x (Sylvester).
// Signs are all that counts, so no quotient is formed: an eigenvalue costs a few multiplications a
// row in place of a division. With entries of at most 1 in size a minor grows by less than 3 a row, and a pair of them
// falls by no more than 2^-200 in two; every eighth row brings both of them back to about 1 by a power of two.
#pragma once

#include "../../host_device.h"

#include <cmath>
#include <cstdint>
#include <cstring>

namespace svdprune::tridiag {

SVDPRUNE_HOST_DEVICE inline uint64_t bits_of(double value) {
  uint64_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

// 2^-k, where the larger of two numbers is m 2^k in size with 1 <= m < 2; finite for 0 too.
SVDPRUNE_HOST_DEVICE inline double inverse_exponent(double one, double other) {
  constexpr uint64_t kExponent = 0x7ff;
  const uint64_t first = bits_of(one) >> 52 & kExponent, second = bits_of(other) >> 52 & kExponent;
  const uint64_t bits = (2046 - (first > second ? first : second)) << 52;
  double scale;
  std::memcpy(&scale, &bits, sizeof scale);
  return scale;
}

// Added to c^2: far below rounding, and after a minor of 0 the next one is not 0.
constexpr double kLeastSquare = 0x1p-200;

// The last two minors of T - x I, but for a common factor, and how many neighbours among them all differ in sign.
struct Minors {
  double before = 0, last = 1;
  int changes = 0;
};

// T [m, m] with |entries| <= 1: diagonal [m], squares [m]: of c_i-1, with kLeastSquare, but for the first one, which is
// 0. |x| <= 1.01.
SVDPRUNE_HOST_DEVICE inline Minors minors(const double* diagonal, const double* squares, int m,
                                          double x) {
  constexpr int kAtOnce = 8;
  double before = 0, minor = 1;
  int changes = 0;
  const auto next = [&](int i) {
    const double following = (diagonal[i] - x) * minor - squares[i] * before;
    changes += static_cast<int>((bits_of(following) ^ bits_of(minor)) >> 63);
    before = minor;
    minor = following;
  };
  int i = 0;
  for (; i + kAtOnce <= m; i += kAtOnce) {
#pragma unroll
    for (int ahead = 0; ahead < kAtOnce; ++ahead) {
      next(i + ahead);
    }
    const double scale = inverse_exponent(before, minor);
    before *= scale;
    minor *= scale;
  }
#pragma unroll 1
  for (; i < m; ++i) {
    next(i);
  }
  return {before, minor, changes};
}

// Of the same T, eigenvalues above x.
SVDPRUNE_HOST_DEVICE inline int eigenvalues_above(const double* diagonal, const double* squares,
                                                  int m, double x) {
  return m - minors(diagonal, squares, m, x).changes;
}

// The last entry of the inverse of x I - T: one over its last pivot.
SVDPRUNE_HOST_DEVICE inline double corner_of_inverse(const double* diagonal, const double* squares,
                                                     int m, double x) {
  const Minors of = minors(diagonal, squares, m, x);
  return -of.before / of.last;
}

}  // namespace svdprune::tridiag
