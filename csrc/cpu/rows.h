// A few rows of numbers, and the two halves of multiplying by the low-rank matrix that they make.
#pragma once

#include <cstdint>

namespace svdprune::cpu {

// Rows of numbers, `stride` apart.
template <class T>
struct Rows {
  const T* values;
  int64_t stride;
};

// products[row] = the row times x, over the entries first .. last; `count` rows.
void multiply_rows(Rows<float> rows, int64_t count, const float* x, int64_t first, int64_t last,
                   float* products);
void multiply_rows(Rows<double> rows, int64_t count, const double* x, int64_t first, int64_t last,
                   double* products);

// y += the sum of factors[row] times the row, in the entries first .. last; `count` rows.
void add_rows(Rows<float> rows, int64_t count, const float* factors, int64_t first, int64_t last,
              float* y);
void add_rows(Rows<double> rows, int64_t count, const double* factors, int64_t first, int64_t last,
              double* y);

}  // namespace svdprune::cpu
