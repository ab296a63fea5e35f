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

// Unit eigenvector of an eigenvalue that is known to eps ||T||, by a twisted factorisation. z [n].
void tridiagonal_eigenvector(const std::vector<double>& diagonal,
                             const std::vector<double>& coupling, double eigenvalue, double* z);

}  // namespace svdprune::cpu
