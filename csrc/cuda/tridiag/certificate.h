// When the tridiagonalisation may stop, and when it is not to be awaited: the parts of Note [certificate] in
// ../../cpu/solver_tridiag.cpp that are plain numbers.
#pragma once

#include "../../check_schedule.h"

#include <cmath>

namespace svdprune::tridiag {

constexpr double kTolerance = 1e-4;  // eps of the certificate, as on the CPU for float32

// Whether a full tridiagonalisation is to be expected, after m steps whose diagonal adds up to `captured` of `trace`.
// After 36 steps images that stopped in time had captured all but 1.0 to 1.3 times what may be missing, those that did
// not all but twice as much and more. Where half of the energy or more is asked for, less than 15 % of it all after 16
// steps says so already. look: what the schedule said at that step, before a look that has failed; there may be none
// left.
SVDPRUNE_HOST_DEVICE inline bool seems_flat(int m, int look, int n, double captured, double trace,
                                            double variance) {
  constexpr int kSoon = 16, kEnough = 36;
  constexpr double kMissing = 1.4, kHalf = 0.5, kLittle = 0.15;
  if (m < kSoon || m > n / 2) {
    return false;
  }
  if (look == 0 ? m == n / 2 : (m == look ? next_check(m, n) : look) == n) {
    return true;
  }
  return (m == kSoon && variance >= kHalf && captured < kLittle * trace) ||
         (m == kEnough && trace - captured > kMissing * (1 - variance) * trace);
}

// The smallest r whose leading values (descending) hold at least `variance` of `total`; m + 1 when
// all [m] do not. Negative ones, which are rounding, count as zero.
SVDPRUNE_HOST_DEVICE inline int rank_for_variance(const double* values, int m, double variance,
                                                  double total) {
  double sum = 0;
  for (int r = 1; r <= m; ++r) {
    sum += values[r - 1] > 0 ? values[r - 1] : 0;
    if (sum >= variance * total) {
      return r;
    }
  }
  return m + 1;
}

// How many of the `rank` leading values (descending) stand out from the rounding of a float32 Gram
// matrix.
SVDPRUNE_HOST_DEVICE inline int standing_out(const double* values, int rank) {
  constexpr double kRounding = 64 * 0x1p-23;
  int r = rank;
  while (r > 0 && !(values[r - 1] > kRounding * values[0])) {
    --r;
  }
  return r;
}

}  // namespace svdprune::tridiag
