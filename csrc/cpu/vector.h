// Sums over vectors, in float64.
#pragma once

#include <cstdint>

namespace svdprune::cpu {

double dot(const float* x, const float* y, int64_t n);
double dot(const double* x, const double* y, int64_t n);

}  // namespace svdprune::cpu
