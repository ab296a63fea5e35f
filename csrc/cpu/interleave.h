// Transposing rows into a panel, and back.
#pragma once

#include <cstdint>

namespace svdprune::cpu {

// panel [depth, count], its rows `width` apart, <- the transpose of rows [count, depth], `ld` apart.
void interleave(const float* rows, int64_t count, int64_t ld, int64_t depth, float* panel,
                int64_t width);
void interleave(const double* rows, int64_t count, int64_t ld, int64_t depth, double* panel,
                int64_t width);

}  // namespace svdprune::cpu
