// Whether a symmetric matrix R of which only products are known may have an eigenvalue at or above a limit. Plain
// numbers, for the host and the device.
//
// Note [hidden eigenvalues]
// The reduction sees of R only what couples to it, so an eigenvalue of G may hide there: a block of its own, or
// the second copy of a multiple one. Two tests rule that out.
//
// Wolkowicz and Styan (1980) bound the largest eigenvalue of a matrix of order k from its trace t and its
// Frobenius norm f: t / k + sqrt((k - 1) / k (f^2 - t^2 / k)). That costs one pass, and is a proof.
//
// Otherwise a probe: some Lanczos steps from a vector x without direction. If R had an eigenvalue lambda >= limit
// with unit eigenvector u, the share (x . u)^2 / ||x||^2 of x along u could not exceed the Christoffel function
// 1 / sum_j p_j(lambda)^2, p_j being the polynomials of those steps, and above their largest zero it falls as
// lambda grows (Szego, Orthogonal Polynomials, section 3.1). So once 1 / sum_j p_j(limit)^2 is below
// delta^2 / ||x||^2, either there is no such eigenvalue or |x . u| < delta. The entries of x are uniform in
// [-1/2, 1/2], for which the chance of that is at most 2 sqrt(2) delta whatever u is (Ball, Cube slicing in R^n,
// 1986). The p_j grow like Chebyshev polynomials: some 15 products suffice at limit = 2 ||R||.
#pragma once

#include "host_device.h"

#include <cmath>
#include <cstdint>

namespace svdprune {

// Never above the norm. square: the squared norm.
SVDPRUNE_HOST_DEVICE inline double largest_eigenvalue_bound(double trace, double square,
                                                            int64_t order) {
  const double k = static_cast<double>(order);
  const double excess = square - trace * trace / k;
  const double spread = excess > 0 ? excess : 0;
  return trace / k + std::sqrt((k - 1) / k * spread);
}

// What R must lie below for part (iii) of Note [certificate] in cpu/solver_tridiag.cpp. above, below: theta_r and
// theta_r+1; coupling: e_m; corner: the last entry of the inverse of x I - T_m, one over its last pivot, at their middle
// x. May be negative, where nothing does.
SVDPRUNE_HOST_DEVICE inline double limit_of_rest(double above, double below, double coupling,
                                                 double corner, double residual_square) {
  const double through_coupling = coupling * coupling * corner;
  return (above + below) / 2 - (through_coupling > 0 ? through_coupling : 0) -
         2 * residual_square / (above - below);
}

// Entry i of x, the same at each call (splitmix64, Steele et al. 2014).
SVDPRUNE_HOST_DEVICE inline double probe_entry(int64_t i) {
  uint64_t z = (static_cast<uint64_t>(i) + 1) * 0x9e3779b97f4a7c15;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return static_cast<double>(z ^ (z >> 31)) * 0x1p-64 - 0.5;
}

enum class Probed { kOpen, kNoneHidden, kUnknown };

// The sum over the polynomials at the limit, one Lanczos step at a time.
struct Probe {
  static constexpr int kMostSteps =
      24;  // then going on with the reduction is the better use of time
  static constexpr double kLeastOverlap = 1e-8;  // delta

  double square;  // ||x||^2
  double limit;
  double p = 1, p_before = 0, beta_before = 0, sum = 1;

  // After the step R q = beta_before q_before + alpha q + beta q_next. kUnknown: a Ritz value of R lies above the
  // limit, or nothing can be said.
  SVDPRUNE_HOST_DEVICE Probed step(double alpha, double beta) {
    const double p_next = ((limit - alpha) * p - beta_before * p_before) / beta;
    if (!(p_next > 0)) {
      return Probed::kUnknown;
    }
    sum += p_next * p_next;
    p_before = p;
    p = p_next;
    beta_before = beta;
    return sum * kLeastOverlap * kLeastOverlap > square ? Probed::kNoneHidden : Probed::kOpen;
  }
};

}  // namespace svdprune
