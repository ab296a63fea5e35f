// Eigenvalues of T_m, all at the same time, by multisection: a warp has one eigenvalue, or some.
#pragma once

#include "shared.cuh"
#include "sturm.h"

namespace svdprune::cuda {

// G is positive semidefinite but for rounding, and its trace is below 1.
constexpr double kLowest = -0x1p-7, kHighest = 1 + 0x1p-7;
constexpr double kCoarse = 0x1p-30;  // width of an interval: enough to turn most certificates down
constexpr double kFine = 0x1p-50;

// The lanes that share an eigenvalue, each with one point a round. Few for many eigenvalues, so that a cluster of 16
// blocks has them all on its way: a round costs the same, whatever it is spent on.
__device__ __forceinline__ int lanes_of(int m) {
  constexpr int kWarps = kMostCluster * threads_of(kMostTokens / 32) / 32;
  return 32 / ((m + kWarps - 1) / kWarps);
}

// ritz [m]: the eigenvalues' intervals of width at most `to`, their middles, descending, in every block; seen after
// the next cluster_sync. refines: from the middles to kCoarse, which have been seen. Each value depends on T alone,
// whatever the cluster's size.
__device__ __forceinline__ void send_ritz_values(Team team, const Shared& s, int m, double to,
                                                 bool refines = false) {
  forget_derived(team);
  const int lanes = lanes_of(m), together = 32 / lanes;
  const int own = team.lane / lanes, point = team.lane % lanes + 1;
  const unsigned points = (lanes == 32 ? kAllLanes : (1u << lanes) - 1) << own * lanes;
  const double part = 1.0 / (lanes + 1);
  double start = kHighest - kLowest;
  while (refines && start > kCoarse) {
    start *= part;
  }
  for (int first = together * (team.rank + team.size * team.warp); first < m;
       first += together * team.size * team.warps) {
    const int index = min(first + own, m - 1);
    double low = refines ? s.ritz[index] - start / 2 : kLowest;
    double width = start;
    __syncwarp();
    while (width > to) {
      width *= part;
      const double x = low + point * width;
      const bool above = tridiag::eigenvalues_above(s.diagonal, s.squares, m, x) > index;
      low += __popc(__ballot_sync(kAllLanes, above) & points) * width;
    }
    for (int i = first; i < min(first + together, m); ++i) {
      tell_all(team, s.ritz + i, __shfl_sync(kAllLanes, low + width / 2, (i - first) * lanes));
    }
  }
}

}  // namespace svdprune::cuda
