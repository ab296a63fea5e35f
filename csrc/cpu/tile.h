// The innermost product of the Gram stage and of the reduction: C (+)= R^T S, R and S with a row for each step.
#pragma once

#include "rows.h"

#include <cstdint>

namespace svdprune::cpu {

// Kernels there are; on other processors than x86-64 the baseline is what the compiler takes for granted (NEON).
enum class InstructionSet { kBaseline, kAvx2, kAvx512 };

// The best that this processor has.
InstructionSet best_instruction_set();

// C [rows, columns], column-major with leading dimension ldc. Products are summed step by step.
template <class T>
struct TileKernel {
  int64_t lanes;  // rows are multiplied in vectors of so many
  int64_t width;  // rows <= width: 3 vectors

  // c (+)= r^T s over `depth` rows of r and s. Of each row of r all `width` numbers may be read, whatever `rows` is.
  void (*multiply)(int64_t depth, Rows<T> r, Rows<T> s, bool add, int64_t rows, int64_t columns,
                   T* c, int64_t ldc);
};

template <class T>
TileKernel<T> tile_kernel(InstructionSet set);

}  // namespace svdprune::cpu
