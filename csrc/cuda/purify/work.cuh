// What the blocks of purify_kernel work on: tiles of images, and where their numbers lie.
#pragma once

#include "../purify.h"
#include "../warp.cuh"
#include "square.cuh"

#include <limits>

namespace svdprune::cuda::purifying {

using purify::State;
using purify::Step;

constexpr int kWorkers = kThreads / 32;
constexpr int kAllThreads = kThreads + 32;
constexpr int kNotYet = std::numeric_limits<int>::max();

// Behind the ring.
struct Shared {
  State state;              // what all tiles do in a step,
  int image, step;          // of which image, and in which step
  int done[kMostPurified];  // in which step an image was done: 0 before the first, kNotYet
  float sums[8][kWorkers];  // of a tile, in the order of purify::Sums
};
constexpr size_t kSharedBytes = kRingBytes + sizeof(Shared);

__device__ inline Shared& shared() {
  return *reinterpret_cast<Shared*>(dynamic_shared() + kRingBytes);
}

__device__ inline bool is_worker() {
  return threadIdx.x < kThreads;
}

// A tile of an image.
struct Tile {
  int64_t b;
  int number, row, col;
  int n;        // tokens of the image
  bool square;  // one of the two halves of a square on the diagonal, and so without a mirror
};

// Calls f(tile) for each of this block's.
template <class F>
__device__ inline void for_tiles(const Images& x, F&& f) {
  const auto tiles = static_cast<unsigned>(purify_tiles(x.tokens));
  const unsigned items = static_cast<unsigned>(x.images) * tiles;
  const unsigned end = items * (blockIdx.x + 1) / gridDim.x;
#pragma unroll 1
  for (unsigned item = items * blockIdx.x / gridDim.x; item < end; ++item) {
    const unsigned b = item / tiles, number = item - b * tiles;
    // Tiles before row i of them: i (i + 1).
    const auto i = static_cast<int>((sqrtf(4 * number + 1) - 1) / 2);
    const int j = static_cast<int>(number) - i * (i + 1);
    f(Tile{b, static_cast<int>(number), kTileRows * i, kTileCols * j,
           static_cast<int>(length_of(x, b)), j >= 2 * i});
  }
}

__device__ inline HalvesMatrix matrix_of(const Images& x, const Purify& a, int turn, int64_t b) {
  const int64_t side = purify_side(x.tokens), size = side * side;
  auto* const first = static_cast<__half*>(a.x) + 2 * size * (turn * x.images + b);
  return {first, first + size, static_cast<int>(side)};
}

__device__ inline double* sums_of(const Images& x, const Purify& a, int turn, int64_t b) {
  return a.sums + (turn * x.images + b) * kPurifySums * purify_tiles(x.tokens);
}

// What the Gram kernel's tiles add up to, in every lane: the trace (which = 0) or the squared norm (1).
__device__ inline double gram_total(const Purify& a, int64_t b, int which) {
  const double* const partials = a.partials + 2 * b * a.parts + which;
  return warp_sum_of(threadIdx.x % 32, static_cast<int>(a.parts),
                     [&](int i) { return partials[2 * i]; });
}

}  // namespace svdprune::cuda::purifying
