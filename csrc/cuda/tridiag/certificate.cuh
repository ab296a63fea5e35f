// Whether the cluster may stop after m steps: Note [certificate] in ../../cpu/solver_tridiag.cpp.
#pragma once

#include "certificate.h"
#include "probe.cuh"
#include "ritz.cuh"
#include "vectors.cuh"

namespace svdprune::cuda {

// T_m's trace, the sum of the Ritz values.
__device__ __forceinline__ double captured(const Team& team, const Shared& s, int m) {
  double sum = 0;
  for (int i = team.lane; i < m; i += 32) {
    sum += s.diagonal[i];
  }
  return warp_sum(sum);
}

// Part (i) as far as it costs nothing.
__device__ __forceinline__ bool energy_captured(const Team& team, const Shared& s, int m) {
  return captured(team, s, m) >= s.problem->variance * s.problem->trace;
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
  double square = 0;
  for (int block = 0; block < team.size; ++block) {
    square += s.remainder[block];
  }
  const double trace = s.problem->trace - captured(team, s, m);
  return largest_eigenvalue_bound(trace, square, s.n - m) < limit ||
         probe_misses(team, s, rows, m, limit);
}

// All parts, with no update pending.
template <int kColumns>
__device__ __forceinline__ bool certified(const Team& team, Shared& s, const Rows<kColumns>& rows,
                                          int m) {
  const double square = block_sum(team, rows.square(team, s, m), s.partial[0]);
  if (team.warp == 0) {
    tell_all(team, s.remainder + team.rank, square);  // seen with the Ritz values
  }
  const double limit = leading_pairs_found(team, s, m);
  return limit > 0 && lies_below(team, s, rows, m, limit);
}

}  // namespace svdprune::cuda
