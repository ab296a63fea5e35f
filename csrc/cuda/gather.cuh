// Copying kept rows, bit for bit: what the kernels that gather share.
#pragma once

#include "warp.cuh"

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

// In every lane: how many of the first `end` tokens stay. kept: a byte a token, 1 for one that stays.
__device__ inline int count_kept(const uint8_t* kept, int end, int lane) {
  int count = 0;
  for (int i = lane; i < end; i += 32) {
    count += kept[i];
  }
  return warp_sum(count);
}

// tokens, indices and count of image b, as launch_gather writes them: a warp a row, of `warps` that share the image.
__device__ inline void gather_rows(const Images& x, int64_t b, const Budget& budget,
                                   const uint8_t* kept, int warp, int warps, char* tokens,
                                   int64_t* indices, int32_t* counts) {
  const int n = static_cast<int>(length_of(x, b)), lane = threadIdx.x % 32;
  const int64_t width = width_of(x.dtype);
  const int64_t row_bytes = x.features * width;
  const int64_t places = places_of(budget, b), base = first_kept(budget, b);
  for (int token = warp; token < n; token += warps) {
    if (!kept[token]) {
      continue;
    }
    const int64_t place = count_kept(kept, token, lane);
    if (place >= places) {
      continue;
    }
    const char* source = static_cast<const char*>(x.data) + token_offset(x, b, token) * width;
    copy_row(source, x.feature_stride, width, x.features, tokens + (base + place) * row_bytes,
             lane);
    if (lane == 0) {
      indices[base + place] = x.cu_seqlens ? first_token(x, b) + token : token;
    }
  }
  const int all = count_kept(kept, n, lane);
  for (int64_t place = all + warp; place < places; place += warps) {
    clear_row(row_bytes, tokens + (base + place) * row_bytes, lane);
    if (lane == 0) {
      indices[base + place] = -1;
    }
  }
  if (counts && warp == 0 && lane == 0) {
    counts[b] = all;
  }
}

}  // namespace svdprune::cuda
