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
  alignas(16) S numbers[8];
#pragma unroll
  for (int n = 0; n < 8; ++n) {
    numbers[n] = n < left ? row[(feature + n) * stride] : from_double<S>(0);
  }
  return *reinterpret_cast<const uint4*>(numbers);
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

}  // namespace svdprune::cuda
