// At which steps of a tridiagonalisation to ask whether it may stop. Plain numbers, for the host and the device.
//
// Note [when to look]
// A certificate that fails costs what three to ten steps cost, and one that comes late the steps until then. Both the
// energy that T_m holds, which is the sum of its diagonal, and the residual follow from how fast the spectrum falls, so
// the one tells when to look for the other: on 78 spectra that let the solver stop (photographs, power laws, outliers,
// duplicates; variance 0.8 to 0.99) the certificate held after 1.0 to 2.2 times the steps that had captured the energy
// asked for, half of them between 1.55 and 1.87. So the first look is after 1.7 times those, and then one after an
// eighth more each time, up to n / 2: past it, going on to the end costs less than failing. On all 125 spectra that were
// looked at this costs 14 to 21 % fewer steps on CUDA than looks after 16, 24, 36, 54, ... steps, and 8 to 14 % fewer on
// the CPU than looks after 16, 20, 25, 31, ..., failed looks counted as steps (bench/results/PREDICTIONS.md).
#pragma once

#include "host_device.h"

#include <cmath>

namespace svdprune {

constexpr int kFirstCheck = 8;  // at least

// The step to look at after a failed look at step m; n: none.
SVDPRUNE_HOST_DEVICE inline int next_check(int m, int n) {
  const int next = m + (m / 8 > 4 ? m / 8 : 4);
  return next <= n / 2 ? next : n;
}

// The first one, where it is expected to be `expected` and cannot be before `least`; n: none.
SVDPRUNE_HOST_DEVICE inline int first_check(int least, int expected, int n) {
  const int half = n / 2, m = expected > kFirstCheck ? expected : kFirstCheck;
  return m <= half ? m : kFirstCheck <= half && least <= half ? half : n;
}

// When to look next, step by step.
struct CheckSchedule {
  int n;
  double needed;        // of the trace
  double captured = 0;  // by T's diagonal
  int next = 0;         // the step to look at; n: none; 0: not known yet
  bool has_failed = false;

  // Of a matrix [n, n] of that trace; rank 0: by `variance` of the trace.
  SVDPRUNE_HOST_DEVICE CheckSchedule(int n, double trace, double variance, int rank)
      : n(n), needed(variance * trace), next(rank > 0 ? first_check(rank + 8, 2 * rank, n) : 0) {}

  // Takes what step m has added to T: an entry of its diagonal, and what couples it to the rest.
  SVDPRUNE_HOST_DEVICE void take(int m, double entry, double coupling) {
    constexpr double kNegligible = 1e-4;  // beside T's mean eigenvalue, as where m is the rank
    captured += entry;
    if (captured < needed) {
      return;
    }
    if (next == 0) {
      next = first_check(m + m / 4, m + (7 * m + 9) / 10, n);
    }
    if (next > m && !has_failed && std::fabs(coupling) * m < kNegligible * captured && m <= n / 2) {
      next = m;
    }
  }

  // The look at step `next` has failed.
  SVDPRUNE_HOST_DEVICE void fail() {
    next = next_check(next, n);
    has_failed = true;
  }
};

}  // namespace svdprune
