// Stage 1 of 5, Gram: X X^T (N x N) or X^T X (D x D).
#pragma once

#include "crew.h"
#include "pack.h"
#include "square_matrix.h"

namespace svdprune::cpu {

enum class Side { kTokens, kFeatures };  // N x N, D x D

inline Side smaller_side(const Image& image) {
  return image.tokens <= image.features ? Side::kTokens : Side::kFeatures;
}

template <class T>
struct Gram {
  Side side;
  SquareMatrix<T> matrix;  // N x N or D x D, lower triangle
  int64_t most_rank;       // min(N, D): any further direction is rounding
  double trace;            // 0 only for all-zero (transformed) features
  Transform transform;     // what was applied to the features
};

// What features whose squares sum to `trace` in T must be scaled by before they are squared, a power of two: 1 where
// that neither overflowed nor underflowed, and for an image of zeros. See Note [scaling]. Throws NotFinite.
template <class T>
double scale_for_squares(const Image& image, const Transform& transform, double trace);

// Throws NotFinite when x holds NaN or Inf, which the trace shows without a pass of its own.
template <class T>
Gram<T> gram(Crew& crew, const Image& image, Side side, bool center);

}  // namespace svdprune::cpu
