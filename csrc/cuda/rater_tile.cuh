// What the kernels of rater_scores share: who sees what, and a warp's tile of q k^T, 16 raters times 32 keys
// with all features, straight from global memory.
//
// Note [lanes of a tile]
// Lane 4 g + t ends up with the products of raters g and g + 8 and, in each group of 8 keys, of keys 2 t and
// 2 t + 1, as the sums of mma.m16n8k16 lie (tensor_core.cuh). 16-bit numbers go through tensor cores: the
// order of the features does not matter to a product, so a lane reads 8 neighbours of its rows at once and
// they make up two of the instruction's steps. float32 and float64 are multiplied one by one.
#pragma once

#include "device.cuh"
#include "tensor_core.cuh"

#include <type_traits>

namespace svdprune::cuda {

constexpr int kWarps = 8;
constexpr int kThreads = 32 * kWarps;

constexpr int kTileRaters = 16;
constexpr int kTileKeys = 32;
constexpr int kKeyGroups = kTileKeys / 8;

template <class S>
using Working = std::conditional_t<std::is_same_v<S, double>, double, float>;

// A rater of this lane: raters g and g + 8 of the tile.
struct Rater {
  int64_t query;
  int64_t keys;  // that it may see; 0 for padding
};

__device__ inline Rater rater_at(const RaterCall& call, int64_t b, int64_t place) {
  const RaterArgs& args = call.args;
  const int64_t query = place < args.raters ? call.raters[b * args.raters + place] : -1;
  if (query < 0 || query >= args.queries) {
    return {0, 0};
  }
  return {query, args.causal ? query + args.keys - args.queries + 1 : args.keys};
}

template <class T>
__device__ T weight_of(const RaterCall& call, int64_t b, int64_t head) {
  return call.head_weights ? call.head_weights[b * call.args.heads + head]
                           : 1 / static_cast<T>(call.args.heads);
}

template <class S>
__device__ const S* row_of(const Heads& of, int64_t b, int64_t head, int64_t token) {
  return static_cast<const S*>(of.data) + b * of.batch_stride + head * of.head_stride +
         token * of.token_stride;
}

__device__ inline bool sees(const RaterArgs& args, int64_t b, int64_t head, const Rater& rater,
                            int64_t key) {
  const RaterMask& mask = args.mask;
  return key >= 0 && key < rater.keys &&
         (!mask.data || mask.data[b * mask.batch_stride + head * mask.head_stride +
                                  rater.query * mask.query_stride + key * mask.key_stride]);
}

// The largest of the tile's raters' `keys`, by all lanes.
__device__ inline int64_t most_keys(const Rater (&raters)[2]) {
  int64_t most = max(raters[0].keys, raters[1].keys);
  for (int lanes = 4; lanes < 32; lanes *= 2) {
    most = max(most, __shfl_xor_sync(~0u, most, lanes));
  }
  return most;
}

// Whether rows can be read 16 bytes at a time.
struct Vectors {
  bool q, k;
};

// 8 numbers of a row from `feature` on, with zeros behind its end; zeros of no row (null).
template <class S>
__device__ uint4 eight_numbers(const S* row, int64_t stride, int64_t feature, int64_t features,
                               bool vectors) {
  const int64_t left = row ? features - feature : 0;
  if (vectors && left >= 8) {
    return *reinterpret_cast<const uint4*>(row + feature);
  }
  S numbers[8];
#pragma unroll
  for (int n = 0; n < 8; ++n) {
    numbers[n] = n < left ? row[(feature + n) * stride] : from_double<S>(0);
  }
  return as_bytes(numbers);
}

// sums = q k^T, neither scaled nor masked. q: rows of raters g and g + 8, or null; key_row(group, key): that of a
// key in a group of 8, or null.
template <class S, class KeyRow>
__device__ void tile_products(const RaterArgs& args, const S* const (&q)[2], const KeyRow& key_row,
                              Vectors vectors, Working<S> (&sums)[kKeyGroups][4]) {
  const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
  for (int group = 0; group < kKeyGroups; ++group) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      sums[group][i] = 0;
    }
  }
  if constexpr (sizeof(S) == 2) {
#pragma unroll 1  // more keeps the rows of all keys in registers, and spills
    for (int64_t feature = 8 * t; feature - 8 * t < args.features; feature += 32) {
      const uint4 low =
          eight_numbers(q[0], args.q.feature_stride, feature, args.features, vectors.q);
      const uint4 high =
          eight_numbers(q[1], args.q.feature_stride, feature, args.features, vectors.q);
      const uint32_t first[4] = {low.x, high.x, low.y, high.y};
      const uint32_t second[4] = {low.z, high.z, low.w, high.w};
#pragma unroll
      for (int group = 0; group < kKeyGroups; ++group) {
        const uint4 keys = eight_numbers<S>(key_row(group, g), args.k.feature_stride, feature,
                                            args.features, vectors.k);
        multiply_add<S>(sums[group], first, keys.x, keys.y);
        multiply_add<S>(sums[group], second, keys.z, keys.w);
      }
    }
  } else {
    const auto number = [](const S* row, int64_t offset) { return row ? row[offset] : S(0); };
    for (int64_t feature = 0; feature < args.features; ++feature) {
      const S low = number(q[0], feature * args.q.feature_stride);
      const S high = number(q[1], feature * args.q.feature_stride);
#pragma unroll
      for (int group = 0; group < kKeyGroups; ++group) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const S key = number(key_row(group, 2 * t + i), feature * args.k.feature_stride);
          sums[group][i] += low * key;
          sums[group][2 + i] += high * key;
        }
      }
    }
  }
}

__device__ inline float exponential(float x) {
  return expf(x);
}
__device__ inline double exponential(double x) {
  return exp(x);
}

// columns [kTileKeys]: the visual columns from `first` on, as positions among the keys; -1 for padding. For all
// threads of a block.
__device__ inline void read_columns(const RaterCall& call, int64_t b, int64_t first, int* columns) {
  const RaterArgs& args = call.args;
  if (threadIdx.x < kTileKeys) {
    const int64_t place = first + threadIdx.x;
    const int64_t column = place < args.columns ? call.visual[b * args.columns + place] : -1;
    columns[threadIdx.x] = column < args.keys ? static_cast<int>(max(column, int64_t{-1})) : -1;
  }
  __syncthreads();
}

// Calls take(group, i, share), as sums of a tile lie, for what the two raters of this lane pay through a head to those
// of the columns that they see. call.rows: what rater_rows_kernel left there.
template <class S, class Take>
__device__ void pay(const RaterCall& call, Vectors vectors, int64_t b, int64_t head, int64_t first,
                    const Rater (&raters)[2], const int* columns, const Take& take) {
  using T = Working<S>;
  const RaterArgs& args = call.args;
  const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  const int64_t key_head = head / (args.heads / args.key_heads);
  const T* sums = static_cast<const T*>(call.rows) + 2 * (b * args.heads + head) * args.raters;
  const S* q[2];
  T base[2], factor[2];
  for (int r = 0; r < 2; ++r) {
    const bool real = raters[r].keys > 0;
    q[r] = real ? row_of<S>(args.q, b, head, raters[r].query) : nullptr;
    base[r] = real ? sums[2 * (first + g + 8 * r)] : T(0);
    factor[r] = real ? sums[2 * (first + g + 8 * r) + 1] : T(0);
  }
  T products[kKeyGroups][4];
  const auto key_row = [&](int group, int column) {
    const int j = columns[8 * group + column];
    return j >= 0 ? row_of<S>(args.k, b, key_head, j) : nullptr;
  };
  tile_products<S>(args, q, key_row, vectors, products);
#pragma unroll
  for (int group = 0; group < kKeyGroups; ++group) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int r = i / 2;
      if (sees(args, b, head, raters[r], columns[8 * group + 2 * t + i % 2])) {
        const T product = products[group][i] * static_cast<T>(args.scale);
        take(group, i, exponential(product - base[r]) * factor[r]);
      }
    }
  }
}

// How many of a prompt's raters are no padding.
__device__ inline int64_t number_of_raters(const RaterCall& call, int64_t b) {
  int64_t raters = 0;
  for (int64_t r = 0; r < call.args.raters; ++r) {
    const int64_t query = call.raters[b * call.args.raters + r];
    raters += query >= 0 && query < call.args.queries;
  }
  return raters;
}

// Whether rows of S can be read 16 bytes at a time.
template <class S>
bool aligned_rows(const Heads& of) {
  constexpr int64_t kNumbers = 16 / sizeof(S);
  return of.feature_stride == 1 && of.token_stride % kNumbers == 0 &&
         of.head_stride % kNumbers == 0 && of.batch_stride % kNumbers == 0 &&
         reinterpret_cast<uintptr_t>(of.data) % 16 == 0;
}

// So many blocks for each prompt.
inline dim3 rater_grid(const RaterArgs& args, int64_t blocks) {
  return dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(args.prompts));
}

// Fills call.rows; at least one rater and one prompt.
void launch_rater_rows(const RaterCall& call, cudaStream_t stream);

}  // namespace svdprune::cuda
