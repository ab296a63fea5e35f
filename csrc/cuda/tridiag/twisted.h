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
  double carried = 0;
  for (int s = 0; s + 1 < m; ++s) {
    const int row = upwards ? m - 1 - s : s;
    const int edge = upwards ? row - 1 : row;
    double pivot = diagonal[row] - x - carried;
    if (std::fabs(pivot) < kTinyPivot) {
      pivot = kTinyPivot;
    }
    const double c = coupling[edge], inverse = reciprocal(pivot);
    ratio[edge] = c * inverse;
    carried = c * c * inverse;
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
  const int count = upwards ? m - 1 - k : k;
  double z = 1;
  for (int s = 0; s < count; ++s) {
    const int edge = upwards ? k + s : k - 1 - s;
    z *= -ratio[edge];
    ratio[edge] = z;
  }
}

SVDPRUNE_HOST_DEVICE inline double twisted_entry(const double* down, const double* up, int k,
                                                 int i) {
  return i < k ? down[i] : i > k ? up[i - 1] : 1;
}

}  // namespace svdprune::tridiag
