// Who has which row of the matrix.
//
// Row i belongs to block i % C of the cluster's C, so that the work shrinks evenly as rows are done with; and rows
// 32 g to 32 g + 31, a group, belong to the same warp of each block: warp g % W of its W. So a warp of a block has
// 32 / C rows of a group, which it numbers as slots, group after group. The first slots are in registers, the others
// in shared memory.
//
// What the rows give is kept in the order of places: those of a group and a block lie next to each other, and travel
// together.
#pragma once

#include "../../host_device.h"
#include "team.cuh"

namespace svdprune::cuda {

// Of the kernel for up to 32 `columns` tokens: threads of a block, as few as have registers for much of the matrix, and
// slots of a warp that are in them. In a cluster of 16 these are all up to 768 tokens, in one of 8 nearly all up to 576.
SVDPRUNE_HOST_DEVICE constexpr int threads_of(int columns) {
  return columns <= 8 ? 128 : 256;
}
SVDPRUNE_HOST_DEVICE constexpr int held_slots(int columns) {
  return columns <= 18 ? 8 : columns == 24 ? 6 : 4;
}

// Whether a block has as many, so that loops over them have no end to look for. Under emulation, where few threads take
// an eighth of the time, it has what it was launched with.
#ifdef SVDPRUNE_EMULATED
constexpr bool kThreadsKnown = false;
#else
constexpr bool kThreadsKnown = true;
#endif

// Rows of a group that a block has: 2 at least.
__device__ __forceinline__ int rows_each(const Team& team) {
  return 32 >> team.size_bits;
}

// Groups of an image of n tokens. Rows from n on are zero.
SVDPRUNE_HOST_DEVICE constexpr int group_count(int n) {
  return (n + 31) / 32;
}

// The slot's number in its group.
__device__ __forceinline__ int slot_in_group(const Team& team, int slot) {
  return slot & (rows_each(team) - 1);
}

__device__ __forceinline__ int group_of_slot(const Team& team, int slot) {
  return team.warp + (slot >> (5 - team.size_bits)) * team.warps;
}

__device__ __forceinline__ int row_of_slot(const Team& team, int slot) {
  return 32 * group_of_slot(team, slot) + (slot_in_group(team, slot) << team.size_bits) + team.rank;
}

// This warp's slots of an image of n tokens.
__device__ __forceinline__ int slot_count(const Team& team, int n) {
  return (group_count(n) - team.warp + team.warps - 1) / team.warps * rows_each(team);
}

// The first of them in a group that has rows from `first` on.
__device__ __forceinline__ int first_slot(const Team& team, int first) {
  const int passed = first / 32 - team.warp;
  return passed <= 0 ? 0 : (passed + team.warps - 1) / team.warps * rows_each(team);
}

__device__ __forceinline__ int place_of_slot(const Team& team, int slot) {
  return 32 * group_of_slot(team, slot) + team.rank * rows_each(team) + slot_in_group(team, slot);
}

__device__ __forceinline__ int place_of_row(const Team& team, int row) {
  return (row & ~31) + (row & (team.size - 1)) * rows_each(team) + ((row & 31) >> team.size_bits);
}

__device__ __forceinline__ int row_of_place(const Team& team, int place) {
  return (place & ~31) + ((place & 31) >> (5 - team.size_bits)) +
         (slot_in_group(team, place) << team.size_bits);
}

}  // namespace svdprune::cuda
