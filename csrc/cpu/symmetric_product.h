// The product of a symmetric matrix and a vector, from the lower triangle.
#pragma once

#include "tile.h"

#include <cstdint>

namespace svdprune::cpu {

constexpr int64_t kDiagonalBlock = 16;

// y += the share in a x of the columns begin .. end of a [n, n], column-major with leading dimension lda, and of their
// mirror images; from row begin on. The columns are whole blocks of kDiagonalBlock, but for the last of a; the lower
// triangle counts, and of the upper one the blocks on the diagonal: see Note [diagonal blocks]. Fastest where the
// columns, x and y begin at a cache line.
template <class T>
using SymmetricProduct = void(int64_t n, int64_t begin, int64_t end, const T* a, int64_t lda,
                              const T* x, T* y);

template <class T>
SymmetricProduct<T>* symmetric_product(InstructionSet set);

}  // namespace svdprune::cpu
