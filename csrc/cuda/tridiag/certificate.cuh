// Whether the cluster may stop after m steps: Note [certificate] in ../../cpu/solver_tridiag.cpp.
#pragma once

#include "certificate.h"
#include "reduce.cuh"
#include "ritz.cuh"
#include "vectors.cuh"

namespace svdprune::cuda {

// Trace and squared norm of what remains (rows and columns from m on, pending update included), as
// this block's parts, to all blocks. Sums in float64.
__device__ __forceinline__ void send_remainder(const Team& team, const Shared& s, int m) {
  double trace = 0, square = 0;
  for (int slot = first_slot(team, m) + team.warp; slot < slot_count(team, s.n);
       slot += team.warps) {
    const int row = slot * team.size + team.rank;
    for (int j = m + team.lane; j < s.n; j += 32) {
      const double value =
          tridiag::updated(s.rows[slot * s.row_length + j], s.v[row], s.w[row], s.v[j], s.w[j]);
      square += value * value;
      trace += j == row ? value : 0;
    }
  }
  trace = block_sum(team, trace, s.partial[0]);
  square = block_sum(team, square, s.partial[1]);
  if (team.warp == 0) {
    tell_all(team, s.trace + team.rank, trace);
    tell_all(team, s.square + team.rank, square);
  }
}

// e_m times the last entries of the `rank` leading vectors of T_m, squared, to all blocks.
__device__ __forceinline__ void send_residuals(const Team& team, const Shared& s, int m, int rank) {
  const int warps = warps_with_room(team, m, s.scratch_count);
  for (int j = team.rank + team.size * team.warp; team.warp < warps && j < rank;
       j += team.size * warps) {
    const TwistedVector z = twisted_vector(team, s, m, s.ritz[j], s.scratch + 2 * m * team.warp);
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

// Parts (i) to (iii), the same in all blocks, with the matrix in shared memory. trace: of G.
// rank_asked: 0 for a rank by variance. Leaves the Ritz values in s.ritz.
__device__ __forceinline__ bool certified(const Team& team, const Shared& s, int m, double trace,
                                          double variance, int rank_asked) {
  send_remainder(team, s, m);
  send_ritz_values(team, s, m, 0, kCoarseRounds);
  cluster_sync();
  const int rank =
      rank_asked > 0 ? rank_asked : tridiag::rank_for_variance(s.ritz, m, variance, trace);
  if (rank >= m) {
    return false;
  }
  double remaining = 0, square = 0;
  for (int block = 0; block < team.size; ++block) {
    remaining += s.trace[block];
    square += s.square[block];
  }
  const double bound = tridiag::largest_eigenvalue_bound(remaining, square, s.n - m);
  if (!(bound + fabs(s.coupling[m - 1]) < s.ritz[rank - 1])) {
    return false;
  }
  cluster_sync();  // all blocks have taken that decision
  send_ritz_values(team, s, m, kCoarseRounds, kRounds);
  cluster_sync();
  if (rank_asked == 0 && tridiag::rank_for_variance(s.ritz, m, variance, trace) != rank) {
    return false;
  }
  send_residuals(team, s, m, rank);
  cluster_sync();
  double residual = 0;
  for (int j = 0; j < rank; ++j) {
    residual += s.residual[j];
  }
  const double limit = tridiag::kTolerance * (s.ritz[rank - 1] - s.ritz[rank]);
  return residual < limit * limit;
}

}  // namespace svdprune::cuda
