// One step of the fused tridiagonalisation, element by element; see Note [fused tridiagonalisation]
// in ../../cpu/tridiagonalise.h. The matrix is scaled to a trace of about 1.
//
// Note [one reduction a step]
// Let v and tau be reflector k, with 1 at its first place f = k + 1; y = A v, and c column f of A. The update
// A - v w^T - w v^T with w = tau y - half v, half = tau^2 / 2 v^T y, turns column f into g + slope v, where
// g = c - tau y and slope = 2 half - tau y_f. So the sums v^T y and, below the next column's first two entries, g^T g,
// g^T v and v^T v give all that the next reflector needs, at the same time. Where g and slope v nearly cancel, the
// column's own squares are summed.
#pragma once

#include "../../host_device.h"
#include "reciprocal.h"

#include <cmath>

namespace svdprune::tridiag {

// A column's tail whose norm is below 1e-30 is zero: what is left out is far below rounding, and its
// reciprocal stays in range.
constexpr double kNoTail = 1e-60;
constexpr double kCancels = 1e-8;  // the share of a sum's parts below which it says nothing

// H = I - tau v v^T with v = (1, scale * tail) turns (alpha, tail) into (beta, 0, ..., 0).
struct Reflection {
  double beta, tau, scale;
};

// All of a step waits for it: one inverse root in float64, and no division.
SVDPRUNE_HOST_DEVICE inline Reflection reflect(double alpha, double tail_square) {
  const bool has_tail = tail_square > kNoTail;
  const double square = has_tail ? alpha * alpha + tail_square : 1;
  const double inverse = inverse_root(square);
  const double beta = alpha < 0 ? square * inverse : -square * inverse;
  const double scale = reciprocal(alpha - beta);
  return {has_tail ? beta : alpha, has_tail ? 1 + std::fabs(alpha) * inverse : 0,
          has_tail ? scale : 0};
}

// a_ij after a -= p q^T + q p^T.
SVDPRUNE_HOST_DEVICE inline float updated(float a, float p_i, float q_i, float p_j, float q_j) {
  return a - p_i * q_j - q_i * p_j;
}

// The sum of (g_i + slope v_i)^2 by those of g_i^2, g_i v_i and v_i^2; negative where that says nothing.
SVDPRUNE_HOST_DEVICE inline double combined_square(double slope, double gg, double gv, double vv) {
  const double square = gg + slope * (2 * gv + slope * vv);
  return square > kCancels * (gg + slope * slope * vv) ? square : -1;
}

}  // namespace svdprune::tridiag
