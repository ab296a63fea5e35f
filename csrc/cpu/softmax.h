// Rows of numbers: reading them from any type, and what a softmax makes of them.
#pragma once

#include "../image.h"

#include <cstdint>

namespace svdprune::cpu {

// out [n] = row [n] of `dtype`, `stride` elements apart.
void read_row(const void* row, ScalarType dtype, int64_t stride, int64_t n, float* out);
void read_row(const void* row, ScalarType dtype, int64_t stride, int64_t n, double* out);

// Of some of a row's numbers: the largest, and the sum of exp(number - largest).
template <class T>
struct SoftmaxPart {
  T largest, sum;
};

// values [n] become exp(value - largest). -infinity becomes exactly 0, all of them if there is nothing else; a NaN,
// or +infinity, stays in the sum.
SoftmaxPart<float> exponentials(float* values, int64_t n);
SoftmaxPart<double> exponentials(double* values, int64_t n);

// out [n] += factor * values [n]; returns the sum of the values.
float add_scaled(const float* values, int64_t n, float factor, float* out);
double add_scaled(const double* values, int64_t n, double factor, double* out);

// out [n] += values [n] / divisors [n], where a value is not 0.
void add_quotients(const float* values, const float* divisors, int64_t n, float* out);
void add_quotients(const double* values, const double* divisors, int64_t n, double* out);

}  // namespace svdprune::cpu
