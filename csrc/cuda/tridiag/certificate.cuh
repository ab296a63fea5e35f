// Whether the cluster may stop after m steps: Note [certificate] in ../../cpu/solver_tridiag.cpp.
#pragma once

#include "certificate.h"
#include "probe.cuh"
#include "ritz.cuh"
#include "vectors.cuh"

namespace svdprune::cuda {

// This block's part of what remains, to all blocks.
__device__ __forceinline__ void send_remainder(const Team& team, const Shared& s, Remainder part) {
  part.trace = block_sum(team, part.trace, s.partial[0]);
  part.square = block_sum(team, part.square, s.partial[1]);
  if (team.warp == 0) {
    tell_all(team, s.trace + team.rank, part.trace);
    tell_all(team, s.square + team.rank, part.square);
  }
}

// Part (i) as far as it costs nothing: whether the Ritz values, whose sum is T_m's trace, hold the
// energy.
__device__ __forceinline__ bool energy_captured(const Shared& s, int m) {
  double captured = 0;
  for (int i = 0; i < m; ++i) {
    captured += s.diagonal[i];
  }
  return captured >= s.problem->variance * s.problem->trace;
}

// By the Ritz values, m + 1 when they do not hold the energy.
__device__ __forceinline__ int rank_found(const Shared& s, int m) {
  return s.problem->rank > 0
             ? s.problem->rank
             : tridiag::rank_for_variance(s.ritz, m, s.problem->variance, s.problem->trace);
}

// Parts (i) and (ii), the same in all blocks: what the remainder's eigenvalues must lie below for part (iii), or
// 0 where they fail. Leaves the Ritz values in s.ritz, and the leading vectors of T_m. m <= n / 2, so that there is room
// for one in what the next step exchanges.
__device__ __forceinline__ double leading_pairs_found(const Team& team, const Shared& s, int m) {
  send_ritz_values(team, s, m, kCoarse);
  cluster_sync();
  const int rank = rank_found(s, m);
  if (rank >= m) {
    return 0;
  }
  cluster_sync();  // all blocks have taken that decision
  send_ritz_values(team, s, m, kFine, true);
  cluster_sync();
  if (rank_found(s, m) != rank) {
    return 0;
  }
  write_vectors(team, s, m, 0, rank, reinterpret_cast<double*>(free_buffer(s.steps)),
                s.steps.capacity);
  cluster_sync();
  double residual = 0;
  for (int j = 0; j < rank; ++j) {
    residual += s.residual[j];
  }
  const double limit = tridiag::kTolerance * (s.ritz[rank - 1] - s.ritz[rank]);
  return residual < limit * limit ? s.ritz[rank - 1] - fabs(s.coupling[m - 1]) : 0;
}

// Part (iii), the same in all blocks.
template <int kColumns>
__device__ __forceinline__ bool lies_below(const Team& team, Shared& s, const Rows<kColumns>& rows,
                                           int m, double limit) {
  double trace = 0, square = 0;
  for (int block = 0; block < team.size; ++block) {
    trace += s.trace[block];
    square += s.square[block];
  }
  return largest_eigenvalue_bound(trace, square, s.n - m) < limit ||
         probe_misses(team, s, rows, m, limit);
}

// All parts, with no update pending.
template <int kColumns>
__device__ __forceinline__ bool certified(const Team& team, Shared& s, const Rows<kColumns>& rows,
                                          int m) {
  send_remainder(team, s, rows.remainder(team, s, m));
  const double limit = leading_pairs_found(team, s, m);
  return limit > 0 && lies_below(team, s, rows, m, limit);
}

}  // namespace svdprune::cuda
