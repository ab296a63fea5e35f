// The threads of a cluster, and the sums they form together. All sums have a fixed order, so every
// block that adds the same numbers has the same bits.
#pragma once

#include "../cluster.cuh"

namespace svdprune::cuda {

constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kMostCluster = 16;  // blocks
constexpr int kMostWarps = 16;    // a block's

// This thread's place. Warps are whole.
struct Team {
  int thread, threads;  // of the block
  int lane, warp, warps;
  int rank, size;  // of the block in its cluster
};

__device__ __forceinline__ Team this_team() {
  const int thread = threadIdx.x, threads = blockDim.x;
  return {thread,
          threads,
          thread % 32,
          thread / 32,
          threads / 32,
          static_cast<int>(cluster_rank()),
          static_cast<int>(cluster_size())};
}

// In every lane the sum over the warp.
template <class T>
__device__ __forceinline__ T warp_sum(T value) {
  for (int apart = 16; apart > 0; apart /= 2) {
    value += __shfl_xor_sync(kAllLanes, value, apart);
  }
  return value;
}

// In every thread the sum over the block. partial [kMostWarps]: free since the last barrier, zeros
// behind the block's warps.
__device__ __forceinline__ double block_sum(const Team& team, double value, double* partial) {
  value = warp_sum(value);
  if (team.lane == 0) {
    partial[team.warp] = value;
  }
  __syncthreads();
  double sum = partial[team.lane % kMostWarps];
#pragma unroll
  for (int apart = kMostWarps / 2; apart > 0; apart /= 2) {
    sum += __shfl_xor_sync(kAllLanes, sum, apart);
  }
  return sum;
}

// Puts a value at the same place in every block's shared memory; the lanes of a warp take the blocks
// in turn. Seen after the next cluster_sync.
template <class T>
__device__ __forceinline__ void tell_all(const Team& team, T* place, T value) {
  for (int block = team.lane; block < team.size; block += 32) {
    *cluster_map(place, block) = value;
  }
}

}  // namespace svdprune::cuda
