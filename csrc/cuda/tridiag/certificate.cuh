// Whether the cluster may stop after m steps: Note [certificate] in ../../cpu/solver_tridiag.cpp.
#pragma once

#include "certificate.h"
#include "probe.cuh"
#include "ritz.cuh"
#include "vectors.cuh"

namespace svdprune::cuda {

__device__ __forceinline__ double sum_of(const Team& team, const double* numbers, int count) {
  return warp_sum_of(team.lane, count, [&](int i) { return numbers[i]; });
}

// By the Ritz values, m + 1 when they do not hold the energy.
__device__ __forceinline__ int rank_found(const Shared& s, int m) {
  return s.problem->rank > 0
             ? s.problem->rank
             : tridiag::rank_for_variance(s.ritz, m, s.problem->variance, s.problem->trace);
}

// Whether looking closer would be in vain: few more steps than directions, the last of which still holds much.
__device__ __forceinline__ bool too_early(const Shared& s, int m, int rank) {
  return 4 * m < 7 * rank && fabs(s.coupling[m - 1]) > s.ritz[rank - 1] / 8;
}

// Parts (i) and (ii), the same in all blocks: what the remainder's eigenvalues must lie below for part (iii), or
// 0 where they fail. Leaves the Ritz values in s.ritz, and the leading vectors of T_m. m <= n / 2, so that there is room
// for one in what the next step exchanges.
__device__ __forceinline__ double leading_pairs_found(const Team& team, const Shared& s, int m) {
  int rank = 0;
#pragma unroll 1  // as code that runs once takes its time to be fetched
  for (int pass = 0; pass < 2; ++pass) {
    const bool refines = pass == 1;
    send_ritz_values(team, s, m, refines ? kFine : kCoarse, refines);
    cluster_sync();
    const int found = rank_found(s, m);
    if (found >= m || (refines && found != rank) || too_early(s, m, found)) {
      return 0;
    }
    rank = found;
    if (!refines) {
      cluster_sync();  // all blocks have taken that decision
    }
  }
  write_vectors(team, s, m, 0, rank, reinterpret_cast<double*>(free_buffer(s.steps)),
                s.steps.capacity);
  cluster_sync();
  const double residual = sum_of(team, s.residual, rank);
  const double above = s.ritz[rank - 1], below = s.ritz[rank];
  const double limit = tridiag::kTolerance * (above - below);
  if (!(residual < limit * limit)) {
    return 0;
  }
  const double corner = tridiag::corner_of_inverse(s.diagonal, s.squares, m, (above + below) / 2);
  return limit_of_rest(above, below, s.coupling[m - 1], corner, residual);
}

// Part (iii), the same in all blocks.
template <class Plan>
__device__ __forceinline__ bool lies_below(const Team& team, Shared& s, const Rows<Plan>& rows,
                                           int m, double limit) {
  const double square = sum_of(team, s.remainder, team.size);
  const double trace = s.problem->trace - sum_of(team, s.diagonal, m);
  return largest_eigenvalue_bound(trace, square, s.n - m) < limit ||
         probe_misses(team, s, rows, m, limit);
}

// All parts, with no update pending.
template <class Plan>
__device__ __forceinline__ bool certified(const Team& team, Shared& s, const Rows<Plan>& rows,
                                          int m) {
  const double square = block_sum(team, rows.square(team, s, m), s.partial[0]);
  if (team.warp == 0) {
    tell_all(team, s.remainder + team.rank, square);  // seen with the Ritz values
  }
  const double limit = leading_pairs_found(team, s, m);
  return limit > 0 && lies_below(team, s, rows, m, limit);
}

}  // namespace svdprune::cuda
