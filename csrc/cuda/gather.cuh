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

// Where kept rows go: tokens, indices and count as launch_gather writes them.
struct Kept {
  char* tokens;
  int64_t* indices;
  int32_t* counts;
};

// A token of image b to one of its places, by a warp.
__device__ inline void put_row(const Images& x, int64_t b, const Budget& budget, int64_t token,
                               int64_t place, const Kept& to) {
  const int lane = threadIdx.x % 32;
  const int64_t width = width_of(x.dtype), row_bytes = x.features * width;
  const int64_t at = first_kept(budget, b) + place;
  const char* source = static_cast<const char*>(x.data) + token_offset(x, b, token) * width;
  copy_row(source, x.feature_stride, width, x.features, to.tokens + at * row_bytes, lane);
  if (lane == 0) {
    to.indices[at] = x.cu_seqlens ? first_token(x, b) + token : token;
  }
}

// The places of image b behind the `all` tokens that stay, and their number: by the warp-th of `warps` that share it.
__device__ inline void end_rows(const Images& x, int64_t b, const Budget& budget, int64_t all,
                                int64_t warp, int64_t warps, const Kept& to) {
  const int lane = threadIdx.x % 32;
  const int64_t row_bytes = x.features * width_of(x.dtype);
  const int64_t base = first_kept(budget, b), places = places_of(budget, b);
  for (int64_t place = all + warp; place < places; place += warps) {
    clear_row(row_bytes, to.tokens + (base + place) * row_bytes, lane);
    if (lane == 0) {
      to.indices[base + place] = -1;
    }
  }
  if (to.counts && warp == 0 && lane == 0) {
    to.counts[b] = static_cast<int32_t>(all);
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

// All rows of image b, by the warp-th of `warps` that share it.
__device__ inline void gather_rows(const Images& x, int64_t b, const Budget& budget,
                                   const uint8_t* kept, int warp, int warps, const Kept& to) {
  const int n = static_cast<int>(length_of(x, b)), lane = threadIdx.x % 32;
  const int64_t places = places_of(budget, b);
  for (int token = warp; token < n; token += warps) {
    if (!kept[token]) {
      continue;
    }
    const int64_t place = count_kept(kept, token, lane);
    if (place < places) {
      put_row(x, b, budget, token, place, to);
    }
  }
  end_rows(x, b, budget, count_kept(kept, n, lane), warp, warps, to);
}

}  // namespace svdprune::cuda
