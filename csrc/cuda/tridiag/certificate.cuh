// Whether the cluster may stop after m steps: Note [certificate] in ../../cpu/solver_tridiag.cpp.
#pragma once

#include "certificate.h"
#include "probe.cuh"
#include "ritz.cuh"
#include "vectors.cuh"

namespace svdprune::cuda {

// Trace and squared norm of what remains (rows and columns from m on), as this block's parts, to all blocks. Sums
// in float64.
__device__ __forceinline__ void send_remainder(const Team& team, const Shared& s,
                                               const Remainder& remainder) {
  double trace = 0, square = 0;
  for (int slot = first_slot(team, remainder.m) + team.warp; slot < slot_count(team, s.n);
       slot += team.warps) {
    const float* const row = remainder.row(team, s, slot);
    for (int j = remainder.m + team.lane; j < s.n; j += 32) {
      const double value = row[j];
      square += value * value;
      trace += j == slot * team.size + team.rank ? value : 0;
    }
  }
  trace = block_sum(team, trace, s.partial[0]);
  square = block_sum(team, square, s.partial[1]);
  if (team.warp == 0) {
    tell_all(team, s.trace + team.rank, trace);
    tell_all(team, s.square + team.rank, square);
  }
}

// e_m times the last entries of the `rank` leading vectors of T_m, squared, to all blocks. m <= n / 2, so that there
// is room for a vector in what the next step exchanges.
__device__ __forceinline__ void send_residuals(const Team& team, const Shared& s, int m, int rank) {
  double* const room = reinterpret_cast<double*>(exchange_of(s, m));
  const int warps = warps_with_room(team, m, s.n);
  for (int j = team.rank + team.size * team.warp; team.warp < warps && j < rank;
       j += team.size * warps) {
    const TwistedVector z = twisted_vector(team, s, m, s.ritz[j], room + 2 * m * team.warp);
    const double residual = s.coupling[m - 1] * z(m - 1);
    tell_all(team, s.residual + j, residual * residual);
    __syncwarp();
  }
}

// Part (i) as far as it costs nothing: whether the Ritz values, whose sum is T_m's trace, hold the
// energy.
__device__ __forceinline__ bool energy_captured(const Shared& s, int m, double trace,
                                                double variance) {
  double captured = 0;
  for (int i = 0; i < m; ++i) {
    captured += s.diagonal[i];
  }
  return captured >= variance * trace;
}

// Parts (i) and (ii), the same in all blocks: what the remainder's eigenvalues must lie below for part (iii), or
// 0 where they fail. trace: of G. rank_asked: 0 for a rank by variance. Leaves the Ritz values in s.ritz.
__device__ __forceinline__ double leading_pairs_found(const Team& team, const Shared& s, int m,
                                                      double trace, double variance,
                                                      int rank_asked) {
  send_ritz_values(team, s, m, kCoarse);
  cluster_sync();
  const int rank =
      rank_asked > 0 ? rank_asked : tridiag::rank_for_variance(s.ritz, m, variance, trace);
  if (rank >= m) {
    return 0;
  }
  cluster_sync();  // all blocks have taken that decision
  send_ritz_values(team, s, m, kFine, true);
  cluster_sync();
  if (rank_asked == 0 && tridiag::rank_for_variance(s.ritz, m, variance, trace) != rank) {
    return 0;
  }
  send_residuals(team, s, m, rank);
  cluster_sync();
  double residual = 0;
  for (int j = 0; j < rank; ++j) {
    residual += s.residual[j];
  }
  const double limit = tridiag::kTolerance * (s.ritz[rank - 1] - s.ritz[rank]);
  return residual < limit * limit ? s.ritz[rank - 1] - fabs(s.coupling[m - 1]) : 0;
}

// Part (iii), the same in all blocks.
__device__ __forceinline__ bool lies_below(const Team& team, const Shared& s,
                                           const Remainder& remainder, double limit) {
  double trace = 0, square = 0;
  for (int block = 0; block < team.size; ++block) {
    trace += s.trace[block];
    square += s.square[block];
  }
  return largest_eigenvalue_bound(trace, square, s.n - remainder.m) < limit ||
         probe_misses(team, s, remainder, limit);
}

// All parts, with no update pending. trace: of G.
__device__ __forceinline__ bool certified(const Team& team, const Shared& s,
                                          const Remainder& remainder, double trace, double variance,
                                          int rank_asked) {
  send_remainder(team, s, remainder);
  const double limit = leading_pairs_found(team, s, remainder.m, trace, variance, rank_asked);
  return limit > 0 && lies_below(team, s, remainder, limit);
}

}  // namespace svdprune::cuda
