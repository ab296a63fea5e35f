// The threads of a cluster, and the sums they form together. All sums have a fixed order, so every
// block that adds the same numbers has the same bits.
#pragma once

#include "../cluster.cuh"
#include "../warp.cuh"

namespace svdprune::cuda {

constexpr int kMostCluster = 16;  // blocks
constexpr int kMostWarps = 8;     // a block's

// This thread's place. Warps are whole, and the cluster's size is a power of two.
struct Team {
  int thread, threads;  // of the block
  int lane, warp, warps;
  int rank, size;  // of the block in its cluster
  int size_bits;   // size = 2^size_bits
};

// threads: of a block. A number that the compiler knows makes one pass of many a loop.
__device__ __forceinline__ Team this_team(int threads) {
  const int thread = threadIdx.x, size = static_cast<int>(cluster_size());
  return {thread,      threads,         thread % 32,
          thread / 32, threads / 32,    static_cast<int>(cluster_rank()),
          size,        __popc(size - 1)};
}

// Lets the compiler compute anew what it has derived from them: it would keep all of that in registers, of which the
// matrix leaves few.
__device__ __forceinline__ void forget_derived([[maybe_unused]] Team& team) {
#ifdef __CUDA_ARCH__
  asm volatile(""
               : "+r"(team.thread), "+r"(team.lane), "+r"(team.warp), "+r"(team.rank),
                 "+r"(team.size), "+r"(team.size_bits));
#endif
}

// The image of this block, likewise.
__device__ __forceinline__ int64_t this_image() {
#ifdef __CUDA_ARCH__
  unsigned image;
  asm volatile("mov.u32 %0, %%ctaid.y;" : "=r"(image));
  return image;
#else
  return blockIdx.y;
#endif
}

// In every thread the sum over the block. partial [kMostWarps]: free since the last barrier, zeros
// behind the block's warps.
__device__ __forceinline__ double block_sum(const Team& team, double value, double* partial) {
  value = warp_sum(value);
  if (team.lane == 0) {
    partial[team.warp] = value;
  }
  __syncthreads();
  const double2 pair = reinterpret_cast<const double2*>(partial)[team.lane % (kMostWarps / 2)];
  double sum = pair.x + pair.y;
#pragma unroll
  for (int apart = kMostWarps / 4; apart > 0; apart /= 2) {
    sum += __shfl_xor_sync(kAllLanes, sum, apart);
  }
  return sum;
}

// In every thread four sums over the block, in place of the numbers. partials [4, kMostWarps]: as there.
__device__ __forceinline__ void block_sums(const Team& team, double (&number)[4],
                                           double* partials) {
  const double of_warp = warp_sum_of_four(team.lane, number);
  if (team.lane % 8 == 0) {
    partials[team.lane / 8 * kMostWarps + team.warp] = of_warp;
  }
  __syncthreads();
  constexpr int kPairs = kMostWarps / 2;  // of each sum; lanes from 4 kPairs on repeat the others
  const double2 pair = reinterpret_cast<const double2*>(partials)[team.lane % (4 * kPairs)];
  double sum = pair.x + pair.y;
#pragma unroll
  for (int apart = kPairs / 2; apart > 0; apart /= 2) {
    sum += __shfl_xor_sync(kAllLanes, sum, apart);
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    number[i] = __shfl_sync(kAllLanes, sum, kPairs * i);
  }
}

// Puts a value at the same place in every block's shared memory, a lane a block. Seen after the next cluster_sync.
template <class T>
__device__ __forceinline__ void tell_all(const Team& team, T* place, T value) {
  if (team.lane < team.size) {
    *cluster_map(place, team.lane) = value;
  }
}

}  // namespace svdprune::cuda
