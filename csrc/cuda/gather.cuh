// Copying kept rows, bit for bit: what gather_kernel and eig_select_kernel share.
#pragma once

#include "device.cuh"

namespace svdprune::cuda {

// Bytes of one number.
__host__ __device__ inline int64_t width_of(Dtype dtype) {
  return dtype == Dtype::kFloat64 ? 8 : dtype == Dtype::kFloat32 ? 4 : 2;
}

// One row by one warp, in 16-byte pieces where source and target are so aligned, else number by
// number.
__device__ inline void copy_row(const char* source, int64_t stride, int64_t width, int64_t features,
                                char* target, int lane) {
  const int64_t bytes = features * width;
  const auto address = reinterpret_cast<uintptr_t>(source) | reinterpret_cast<uintptr_t>(target);
  if (stride == 1 && ((address | bytes) & 15) == 0) {
    for (int64_t k = lane; k < bytes / 16; k += 32) {
      reinterpret_cast<int4*>(target)[k] = reinterpret_cast<const int4*>(source)[k];
    }
    return;
  }
#pragma unroll 1
  for (int64_t j = lane; j < features; j += 32) {
    const char* from = source + j * stride * width;
    char* to = target + j * width;
    if (width == 2) {
      *reinterpret_cast<uint16_t*>(to) = *reinterpret_cast<const uint16_t*>(from);
    } else if (width == 4) {
      *reinterpret_cast<uint32_t*>(to) = *reinterpret_cast<const uint32_t*>(from);
    } else {
      *reinterpret_cast<uint64_t*>(to) = *reinterpret_cast<const uint64_t*>(from);
    }
  }
}

__device__ inline void clear_row(int64_t bytes, char* target, int lane) {
#pragma unroll 1
  for (int64_t k = lane; k < bytes; k += 32) {
    target[k] = 0;
  }
}

}  // namespace svdprune::cuda
