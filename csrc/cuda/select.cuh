// Which tokens stay: what select_kernel and eig_select_kernel share.
//
// Note [selection without sorting]
// A token's place in the order (score descending, index ascending) is the number of tokens that
// come before it, and whether it stays follows from that number, or for a coverage from the sum of
// their scores. Every token counts for itself: N^2 comparisons, no sort, no scratch, one result for
// one input.

#pragma once

#include "warp.cuh"

namespace svdprune::cuda {

// Where a token stands among the tokens that it has met: sums in float64.
struct Standing {
  int64_t before = 0;
  double covered = 0, total = 0;

  template <class T>
  __device__ void meet(T own, int64_t token, T other, int64_t other_token) {
    const bool earlier = other > own || (other == own && other_token < token);
    before += earlier;
    covered += earlier ? static_cast<double>(other) : 0.0;
    total += static_cast<double>(other);
  }

  // Once it has met all tokens of its image. coverage: 0 for as many as there are places; else a score of 0 adds nothing,
  // whatever rounding of the sums asks for.
  template <class T>
  __device__ bool stays(T own, int64_t places, double coverage) const {
    return before < places && (coverage == 0 || (own > 0 && covered < coverage * total));
  }
};

// Whether a token of an image of n stays; by a warp. score(i): of token i.
template <class F>
__device__ __forceinline__ bool token_stays(int token, int n, int64_t places, double coverage,
                                            F&& score) {
  Standing standing;
  for (int other = threadIdx.x % 32; other < n; other += 32) {
    standing.meet(score(token), token, score(other), other);
  }
  standing.before = warp_sum(static_cast<int>(standing.before));
  if (coverage > 0) {
    standing.covered = warp_sum(standing.covered);
    standing.total = warp_sum(standing.total);
  }
  return standing.stays(score(token), places, coverage);
}

}  // namespace svdprune::cuda
