// Vectors of numbers, in the instruction set chosen at run time.
#pragma once

#include <cstdint>

namespace svdprune::cpu {

// x y, summed in float64.
double dot(const float* x, const float* y, int64_t n);
double dot(const double* x, const double* y, int64_t n);

// z = a x + b y, each entry in float64.
void combine(double a, const float* x, double b, const float* y, int64_t n, float* z);
void combine(double a, const double* x, double b, const double* y, int64_t n, double* z);

// x *= factor.
void scale(float factor, int64_t n, float* x);
void scale(double factor, int64_t n, double* x);

}  // namespace svdprune::cpu
