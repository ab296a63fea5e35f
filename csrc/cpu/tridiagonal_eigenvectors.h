// Eigenvectors of a symmetric tridiagonal matrix, in float64.
#pragma once

#include <cstdint>
#include <vector>

namespace svdprune::cpu {

// Eigenvectors are found for this many eigenvalues at a time, side by side.
constexpr int64_t kLanes = 8;

// Unit eigenvectors of `count` <= kLanes eigenvalues that are known to eps ||T||, by twisted
// factorisations. coupling[k] joins k and k + 1; entries from n - 1 on are not read. z [n, kLanes]; the lanes after `count` are left undefined.
void tridiagonal_eigenvectors(const std::vector<double>& diagonal,
                              const std::vector<double>& coupling, const double* eigenvalues,
                              int64_t count, double* z);

}  // namespace svdprune::cpu
