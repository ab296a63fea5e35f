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

// Of the kernels for up to 32 `columns` tokens: threads of a block, as few as have registers for much of the matrix.
SVDPRUNE_HOST_DEVICE constexpr int threads_of(int columns) {
  return columns <= 8 ? 128 : 256;
}

// What a kernel is made for: images of up to 32 columns tokens, of which a warp has so many pairs in registers.
template <int columns, int held>
struct Plan {
  static constexpr int kColumns = columns, kHeld = held, kThreads = threads_of(columns);
  static_assert(kThreads <= 32 * kMostWarps);
};

// Whether a block has as many threads, so that loops over them have no end to look for. Under emulation, where few threads take
// an eighth of the time, it may have what it was launched with.
#ifdef SVDPRUNE_EMULATED_FEW_THREADS
constexpr bool kThreadsKnown = false;
#else
constexpr bool kThreadsKnown = true;
#endif

// Rows that a thread works on, where each has its share of 32 `columns` of them: thread, thread + threads, ... All
// vectors are that long, so that it need not look for their end.
SVDPRUNE_HOST_DEVICE constexpr int own_rows(int columns, int threads) {
  return (32 * columns + threads - 1) / threads;
}
SVDPRUNE_HOST_DEVICE constexpr int padded_length(int columns, int threads) {
  return own_rows(columns, threads) * threads;
}

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
