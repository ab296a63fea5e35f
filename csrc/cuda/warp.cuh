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

}  // namespace svdprune::cuda
