// Eigenvalues of T_m, all at the same time: a warp an eigenvalue, by multisection.
#pragma once

#include "shared.cuh"
#include "sturm.h"

namespace svdprune::cuda {

// G is positive semidefinite but for rounding, and its trace is below 1.
constexpr double kLowest = -0x1p-7, kHighest = 1 + 0x1p-7;
constexpr int kSections = 33;     // 32 points, one a lane
constexpr int kCoarseRounds = 6;  // 33^-6 = 2^-30, enough to turn most certificates down
constexpr int kRounds = 10;       // 33^-10 = 2^-50

// ritz [m], descending, in every block; seen after the next cluster_sync. From round `begin`, before
// which the rounds before it must have been sent and seen, to round `end`. Each value depends on T
// alone, whatever the cluster's size.
__device__ __forceinline__ void send_ritz_values(const Team& team, const Shared& s, int m,
                                                 int begin, int end) {
  double start_width = kHighest - kLowest;
  for (int round = 0; round < begin; ++round) {
    start_width /= kSections;
  }
  for (int index = team.rank + team.size * team.warp; index < m; index += team.size * team.warps) {
    double width = start_width;
    double low = begin > 0 ? s.ritz[index] - width / 2 : kLowest;
    __syncwarp();
    for (int round = begin; round < end; ++round) {
      width /= kSections;
      const double x = low + (team.lane + 1) * width;
      const bool below = tridiag::eigenvalues_above(s.diagonal, s.coupling, m, x) > index;
      low += __popc(__ballot_sync(kAllLanes, below)) * width;
    }
    tell_all(team, s.ritz + index, low + width / 2);
  }
}

}  // namespace svdprune::cuda
