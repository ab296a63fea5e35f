// One step of the fused tridiagonalisation, element by element; see Note [fused tridiagonalisation]
// in ../../cpu/tridiagonalise.h. The matrix is scaled to a trace of about 1.
#pragma once

#include "../../host_device.h"

#include <cmath>

namespace svdprune::tridiag {

// A column's tail whose norm is below 1e-30 is zero: what is left out is far below rounding, and its
// reciprocal stays a float.
constexpr double kNoTail = 1e-60;

SVDPRUNE_HOST_DEVICE inline double inverse_root(double value) {
#ifdef __CUDA_ARCH__
  return rsqrt(value);
#else
  return 1 / std::sqrt(value);
#endif
}

// H = I - tau v v^T with v = (1, scale * tail) turns (alpha, tail) into (beta, 0, ..., 0).
struct Reflection {
  double beta, tau;
  float scale;
};

// All of a step waits for it: one inverse root in float64, and no division.
SVDPRUNE_HOST_DEVICE inline Reflection reflect(double alpha, double tail_square) {
  if (!(tail_square > kNoTail)) {
    return {alpha, 0, 0};
  }
  const double square = alpha * alpha + tail_square;
  const double inverse = inverse_root(square);
  const double beta = alpha < 0 ? square * inverse : -square * inverse;
  return {beta, 1 + std::fabs(alpha) * inverse, 1 / static_cast<float>(alpha - beta)};
}

// a_ij after a -= p q^T + q p^T.
SVDPRUNE_HOST_DEVICE inline float updated(float a, float p_i, float q_i, float p_j, float q_j) {
  return a - p_i * q_j - q_i * p_j;
}

// w_i = tau y_i - half v_i, with half = tau^2 / 2 v^T y: then H A H = A - v w^T - w v^T.
SVDPRUNE_HOST_DEVICE inline float rank2_vector(double tau, double half, double y_i, double v_i) {
  return static_cast<float>(tau * y_i - half * v_i);
}

}  // namespace svdprune::tridiag
