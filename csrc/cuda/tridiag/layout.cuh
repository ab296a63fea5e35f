// Who has which row of the matrix.
//
// Rows 32 g to 32 g + 31, a group, belong to the same warp of each block: that before the last one by g % W of the W.
// (The first warps may have more to do between two sweeps.) Rows 2 p and 2 p + 1, a pair, belong to block p % C of the
// cluster's C, so that the work shrinks evenly as rows are done with, and what they give travels together. A warp
// numbers its pairs group after group. The first ones are in registers, the others in shared memory.
#pragma once

#include "../../host_device.h"
#include "team.cuh"

namespace svdprune::cuda {

// Of the kernel for up to 32 `columns` tokens: threads of a block, as few as have registers for much of the matrix, and
// pairs of a warp that are in them. In a cluster of 16 these are all up to 768 tokens, in one of 8 nearly all up to 576.
SVDPRUNE_HOST_DEVICE constexpr int threads_of(int columns) {
  return columns <= 8 ? 128 : 256;
}
SVDPRUNE_HOST_DEVICE constexpr int held_pairs(int columns) {
  return columns <= 18 ? 4 : columns == 24 ? 3 : 2;
}

// Whether a block has as many, so that loops over them have no end to look for. Under emulation, where few threads take
// an eighth of the time, it has what it was launched with.
#ifdef SVDPRUNE_EMULATED
constexpr bool kThreadsKnown = false;
#else
constexpr bool kThreadsKnown = true;
#endif

// Groups of an image of n tokens. Rows from n on are zero.
SVDPRUNE_HOST_DEVICE constexpr int group_count(int n) {
  return (n + 31) / 32;
}

// Of a group that a block of the cluster has.
__device__ __forceinline__ int pairs_each(const Team& team) {
  return 16 >> team.size_bits;
}

__device__ __forceinline__ int group_of_pair(const Team& team, int pair) {
  return team.warps - 1 - team.warp + (pair >> (4 - team.size_bits)) * team.warps;
}

// The first of its two rows.
__device__ __forceinline__ int row_of_pair(const Team& team, int pair) {
  const int in_group = pair & (pairs_each(team) - 1);
  return 32 * group_of_pair(team, pair) + 2 * ((in_group << team.size_bits) + team.rank);
}

// This warp's pairs of an image of n tokens.
__device__ __forceinline__ int pair_count(const Team& team, int n) {
  return (group_count(n) + team.warp) / team.warps * pairs_each(team);
}

// Whether it is one of them, and rows of its group from `first` on are left.
__device__ __forceinline__ bool is_left(const Team& team, int pair, int n, int first) {
  const int group = group_of_pair(team, pair);
  return group < group_count(n) && group >= first / 32;
}

}  // namespace svdprune::cuda
