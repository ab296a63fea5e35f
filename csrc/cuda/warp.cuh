// What the lanes of a warp do together.
#pragma once

#include "device.cuh"

namespace svdprune::cuda {

constexpr unsigned kAllLanes = 0xffffffffu;

// In every lane the sum over the warp, in a fixed order.
template <class T>
__device__ __forceinline__ T warp_sum(T value) {
  for (int apart = 16; apart > 0; apart /= 2) {
    value += __shfl_xor_sync(kAllLanes, value, apart);
  }
  return value;
}

// In every lane the sum of f(i) over 0 <= i < count, in a fixed order.
template <class F>
__device__ __forceinline__ double warp_sum_of(int lane, int count, F&& f) {
  double sum = 0;
  for (int i = lane; i < count; i += 32) {
    sum += f(i);
  }
  return warp_sum(sum);
}

// In lanes 0 .. 15 the sum over the warp of the one number, in lanes 16 .. 31 that of the other, in the same order.
__device__ __forceinline__ double warp_sum_of_two(int lane, double2 numbers) {
  const bool upper = lane & 16;
  double sum = upper ? numbers.y : numbers.x;
  sum += __shfl_xor_sync(kAllLanes, upper ? numbers.x : numbers.y, 16);
  for (int apart = 8; apart > 0; apart /= 2) {
    sum += __shfl_xor_sync(kAllLanes, sum, apart);
  }
  return sum;
}

// In lane l the sum over the warp of number[l / 8], in the same order for each: a third of the shuffles of four sums.
template <class T>
__device__ __forceinline__ T warp_sum_of_four(int lane, const T (&number)[4]) {
  const bool upper = lane & 16, odd = lane & 8;
  T one = upper ? number[2] : number[0], other = upper ? number[3] : number[1];
  one += __shfl_xor_sync(kAllLanes, upper ? number[0] : number[2], 16);
  other += __shfl_xor_sync(kAllLanes, upper ? number[1] : number[3], 16);
  T sum = odd ? other : one;
  sum += __shfl_xor_sync(kAllLanes, odd ? one : other, 8);
  for (int apart = 4; apart > 0; apart /= 2) {
    sum += __shfl_xor_sync(kAllLanes, sum, apart);
  }
  return sum;
}

// In lane l the sum over the warp of number[l / 4], likewise of eight.
template <class T>
__device__ __forceinline__ T warp_sum_of_eight(int lane, const T (&number)[8]) {
  const bool upper = lane & 16;
  T half[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const T given = upper ? number[i] : number[i + 4];
    half[i] = (upper ? number[i + 4] : number[i]) + __shfl_xor_sync(kAllLanes, given, 16);
  }
  const bool odd_pair = lane & 8, odd = lane & 4;
  T pair[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const T given = odd_pair ? half[i] : half[i + 2];
    pair[i] = (odd_pair ? half[i + 2] : half[i]) + __shfl_xor_sync(kAllLanes, given, 8);
  }
  T sum = (odd ? pair[1] : pair[0]) + __shfl_xor_sync(kAllLanes, odd ? pair[0] : pair[1], 4);
  sum += __shfl_xor_sync(kAllLanes, sum, 2);
  return sum + __shfl_xor_sync(kAllLanes, sum, 1);
}

#ifndef SVDPRUNE_EMULATED  // which has its own

// A barrier of the block's first threads alone, whole warps.
__device__ inline void sync_first(int threads) {
  asm volatile("bar.sync 1, %0;" ::"r"(threads) : "memory");
}

#endif

}  // namespace svdprune::cuda
