// Eigenvectors of a symmetric tridiagonal matrix, in parts that lanes of a warp can share; see Note
// [twisted vectors] in ../../cpu/tridiagonal_eigen.cpp. Entries of the matrix are of the order 1.
#pragma once

#include "../../host_device.h"
#include "reciprocal.h"

#include <cmath>

namespace svdprune::tridiag {

constexpr double kTinyPivot = 0x1p-104;  // eps^2: takes the place of a pivot of zero

// The factorisation from one end: ratio[i] = coupling[i] over the pivot before edge i, edges 0 .. m -
// 2. From the first row down (ratio = c_i / D_i), or from the last one up (c_i / E_i+1).
SVDPRUNE_HOST_DEVICE inline void twisted_ratios(const double* diagonal, const double* coupling,
                                                int m, double x, bool upwards, double* ratio) {
  const int step = upwards ? -1 : 1, shift = upwards ? -1 : 0;
  int row = upwards ? m - 1 : 0;
  double carried = 0, shifted = diagonal[row] - x, c = m > 1 ? coupling[row + shift] : 0;
#pragma unroll 1
  for (int s = 0; s + 1 < m; ++s, row += step) {
    // Loaded before what comes next is stored, for which it would wait.
    const double shifted_ahead = diagonal[row + step] - x;
    const double ahead = s + 2 < m ? coupling[row + step + shift] : 0;
    double pivot = shifted - carried;
    if (std::fabs(pivot) < kTinyPivot) {
      pivot = kTinyPivot;
    }
    const double inverse = reciprocal(pivot);
    ratio[row + shift] = c * inverse;
    carried = c * c * inverse;
    shifted = shifted_ahead;
    c = ahead;
  }
}

// What is left at row k where the two factorisations meet. The vector's residual is |gamma_k| / ||z||.
SVDPRUNE_HOST_DEVICE inline double twist_residual(const double* diagonal, const double* coupling,
                                                  int m, double x, const double* down,
                                                  const double* up, int k) {
  const double from_above = k > 0 ? coupling[k - 1] * down[k - 1] : 0;
  const double from_below = k + 1 < m ? coupling[k] * up[k] : 0;
  return diagonal[k] - x - from_above - from_below;
}

// The vector outwards from z_k = 1, in place of the ratios: down[i] becomes z_i for i < k, up[i]
// z_i+1 for i >= k.
SVDPRUNE_HOST_DEVICE inline void twisted_half(int m, int k, bool upwards, double* ratio) {
  const int count = upwards ? m - 1 - k : k, step = upwards ? 1 : -1;
  int edge = upwards ? k : k - 1;
  double z = 1, factor = count > 0 ? ratio[edge] : 0;
#pragma unroll 1
  for (int s = 0; s < count; ++s, edge += step) {
    const double ahead = s + 1 < count ? ratio[edge + step] : 0;
    z *= -factor;
    ratio[edge] = z;
    factor = ahead;
  }
}

SVDPRUNE_HOST_DEVICE inline double twisted_entry(const double* down, const double* up, int k,
                                                 int i) {
  return i < k ? down[i] : i > k ? up[i - 1] : 1;
}

}  // namespace svdprune::tridiag
