// Eigenvalues and eigenvectors of a symmetric tridiagonal matrix, in float64.
#pragma once

#include <cstdint>
#include <vector>

namespace svdprune::cpu {

// All eigenvalues, descending, by the root-free QL iteration (Pal, Walker, Kahan; Parlett, The
// Symmetric Eigenvalue Problem, section 8.15), to eps ||T||. coupling[k] joins k and k + 1; entries
// from n - 1 on are not read. Empty if an eigenvalue did not converge.
std::vector<double> tridiagonal_eigenvalues(std::vector<double> diagonal,
                                            const std::vector<double>& coupling);

// Eigenvectors are found for this many eigenvalues at a time, side by side.
constexpr int64_t kLanes = 8;

// Unit eigenvectors of `count` <= kLanes eigenvalues that are known to eps ||T||, by twisted
// factorisations. z [n, kLanes]; the lanes after `count` are left undefined.
void tridiagonal_eigenvectors(const std::vector<double>& diagonal,
                              const std::vector<double>& coupling, const double* eigenvalues,
                              int64_t count, double* z);

}  // namespace svdprune::cpu
