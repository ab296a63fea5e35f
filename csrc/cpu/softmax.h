// Rows of numbers: reading them from any type, and what a softmax makes of them.
#pragma once

#include "../image.h"

#include <cstdint>

namespace svdprune::cpu {

// out [n] = row [n] of `dtype`, `stride` elements apart.
void read_row(const void* row, ScalarType dtype, int64_t stride, int64_t n, float* out);
void read_row(const void* row, ScalarType dtype, int64_t stride, int64_t n, double* out);

// values [n] become exp(value - largest) where largest is their maximum, and the sum of these is returned. -infinity
// becomes exactly 0, all of them if there is nothing else; a NaN, or +infinity, stays in the sum.
float exponentials(float* values, int64_t n);
double exponentials(double* values, int64_t n);

// out [n] += factor * values [n]; returns the sum of the values.
float add_scaled(const float* values, int64_t n, float factor, float* out);
double add_scaled(const double* values, int64_t n, double factor, double* out);

}  // namespace svdprune::cpu
