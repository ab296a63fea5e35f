// Eigenvalues of a symmetric tridiagonal matrix, in float64, by root finding: threads and vector lanes share it.
#pragma once

#include "crew.h"

#include <vector>

namespace svdprune::cpu {

// All eigenvalues, descending, to 2e-15 ||T||. coupling[k] joins k and k + 1; entries from n - 1 on are not read.
std::vector<double> tridiagonal_eigenvalues(Crew& crew, const std::vector<double>& diagonal,
                                            const std::vector<double>& coupling);

}  // namespace svdprune::cpu
