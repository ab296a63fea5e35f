// Rule "pivoted" of stage 4, select: greedy choice of rows with deflation, on columns of the Gram matrix alone.
#pragma once

#include "gram.h"

namespace svdprune::cpu {

struct Picked {
  int64_t count;  // tokens picked
  int64_t rank;   // dimension of their span: those that had something of their own left
};

// order [most]: tokens in the order in which they are picked, at most `most`, and no more than it takes to hold
// `coverage` of the energy (0: as many as `most`), then -1. shares [n]: of the energy ||X||_F^2, what each picked
// token added to what those before it hold; 0 for all others. gram: of the tokens' side. Besides its memory takes
// 8 n most bytes.
template <class T>
Picked pick(const Gram<T>& gram, int64_t most, double coverage, int64_t* order, T* shares);

// As pick, for an image, of whose Gram matrix it forms what it needs: at most the matrix, or 32 n most bytes of its
// columns. indices [most] ascend. shares [N]: float64 for a float64 image, float32 for all others. Throws NotFinite.
Picked select_pivoted(Crew& crew, const Image& image, bool center, int64_t most, double coverage,
                      void* shares, int64_t* indices);

}  // namespace svdprune::cpu
