// A tile of X: from the Gram matrix, from one X to the next with the sums that steer, and to leverage. By the workers.
#pragma once

#include "work.cuh"

namespace svdprune::cuda::purifying {

// A thread's numbers of a tile: neighbours in one row.
struct Place {
  int row, col;

  __device__ explicit Place(const Tile& tile)
      : row(tile.row + threadIdx.x / 4), col(tile.col + threadIdx.x % 4 * kNeighbours) {}
};

// Zeros outside the image.
__device__ inline void read_gram(const Images& x, const Purify& a, const Tile& tile,
                                 float (&g)[kNeighbours]) {
  const Place place(tile);
  const float* const from =
      a.gram + (tile.b * x.tokens + min(place.row, tile.n - 1)) * x.tokens + place.col;
#pragma unroll
  for (int e = 0; e < kNeighbours; ++e) {
    g[e] = place.row < tile.n && place.col + e < tile.n ? from[e] : 0;
  }
}

// The new X of a tile, and its mirror. scratch [64, kTileStride], free.
__device__ inline void write_tile(const HalvesMatrix& x, const Tile& tile,
                                  const float (&numbers)[kNeighbours], float* scratch) {
  const Place place(tile);
  write_numbers(x, place.row, place.col, numbers);
  if (tile.square) {
    return;
  }
  float* const own = scratch + threadIdx.x / 4 * kTileStride + threadIdx.x % 4 * kNeighbours;
#pragma unroll
  for (int e = 0; e < kNeighbours; ++e) {
    own[e] = numbers[e];
  }
  sync_first(kThreads);
  const int col = threadIdx.x / (kTileRows / kNeighbours);
  const int row = threadIdx.x % (kTileRows / kNeighbours) * kNeighbours;
  float mirror[kNeighbours];
#pragma unroll
  for (int e = 0; e < kNeighbours; ++e) {
    mirror[e] = scratch[(row + e) * kTileStride + col];
  }
  write_numbers(x, tile.col + col, tile.row + row, mirror);
}

// This thread's share of the sums of a tile, in the order of purify::Sums.
struct TileSums {
  float sums[8] = {};

  __device__ void add(const Tile& tile, const float (&x)[kNeighbours],
                      const float (&newest)[kNeighbours], const float (&y)[kNeighbours],
                      const float (&g)[kNeighbours]) {
    const Place place(tile);
#pragma unroll
    for (int e = 0; e < kNeighbours; ++e) {
      const bool diagonal = place.row == place.col + e;
      sums[0] += diagonal ? newest[e] : 0;
      sums[1] += newest[e] * g[e];
      sums[2] += diagonal ? y[e] : 0;
      sums[3] += y[e] * g[e];
      sums[4] += y[e] * y[e];
      sums[5] += x[e] * y[e];
    }
  }

  // The block's to global memory.
  __device__ void write(const Tile& tile, double* of_image) const {
    Shared& s = shared();
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const float sum = warp_sum_of_eight(lane, sums);
    if (lane % 4 == 0) {
      s.sums[lane / 4][warp] = sum;
    }
    sync_first(kThreads);
    if (threadIdx.x < kPurifySums) {
      double all = 0;
      for (const float of_warp : s.sums[threadIdx.x]) {
        all += of_warp;
      }
      of_image[tile.number * kPurifySums + threadIdx.x] = tile.square ? all : 2 * all;
    }
  }
};

// X = (G + shift) / norm, whose eigenvalues lie in [0, 1]: the shift keeps rounding from making one negative.
__device__ inline void start(const Images& x, const Purify& a, const Tile& tile, int turn) {
  float* const scratch = reinterpret_cast<float*>(dynamic_shared());
  const Place place(tile);
  constexpr auto kShift = static_cast<float>(purify::kShift);
  const auto scale =
      static_cast<float>(1 / (sqrt(gram_total(a, tile.b, 1)) * (1 + 2 * purify::kShift)));
  float g[kNeighbours], newest[kNeighbours];
  const float none[kNeighbours] = {};
  read_gram(x, a, tile, g);
#pragma unroll
  for (int e = 0; e < kNeighbours; ++e) {
    const bool shifted = place.row == place.col + e && place.row < tile.n;
    newest[e] = scale * g[e] + (shifted ? kShift : 0);
  }
  write_tile(matrix_of(x, a, turn, tile.b), tile, newest, scratch);
  TileSums sums;
  sums.add(tile, none, newest, none, g);
  sums.write(tile, sums_of(x, a, turn, tile.b));
}

// The tile of X + Y or of X - Y, for the quarters' sums of X^2. x and g: of the tile.
__device__ inline void step(const Images& images, const Purify& a, const Tile& tile, int turn,
                            bool raise, const float (&x)[kNeighbours],
                            const float (&g)[kNeighbours]) {
  float* const scratch = reinterpret_cast<float*>(dynamic_shared());
  const float* const of_square =
      scratch + threadIdx.x / 4 * kTileStride + threadIdx.x % 4 * kNeighbours;
  float y[kNeighbours], newest[kNeighbours];
#pragma unroll
  for (int e = 0; e < kNeighbours; ++e) {
    float squared = 0;
#pragma unroll
    for (int quarter = 0; quarter < kQuarters; ++quarter) {
      squared += of_square[quarter * kTileRows * kTileStride + e];
    }
    y[e] = x[e] - squared;
    newest[e] = raise ? x[e] + y[e] : squared;
  }
  write_tile(matrix_of(images, a, turn, tile.b), tile, newest, scratch);
  TileSums sums;
  sums.add(tile, x, newest, y, g);
  sums.write(tile, sums_of(images, a, turn, tile.b));
}

// Leverage of a tile's tokens, of the X before and the newest one, which is of this turn.
__device__ inline void write_scores(const Images& x, const Purify& a, const Tile& tile, int turn,
                                    const State& state) {
  const int i = tile.col + threadIdx.x;
  if (!tile.square || threadIdx.x >= kTileCols || i >= tile.n) {
    return;
  }
  const auto diagonal = [&](int which) {
    const HalvesMatrix matrix = matrix_of(x, a, which, tile.b);
    const int64_t at = static_cast<int64_t>(i) * (matrix.side + 1);
    return static_cast<double>(number_of(matrix.hi[at], matrix.lo[at]));
  };
  const double before = diagonal(1 - turn), change = diagonal(turn) - before;
  const double y = state.raised ? change : -change;
  a.out.scores[first_token(x, tile.b) + i] =
      static_cast<float>(fmin(fmax(before + state.weight * y, 0.0), 1.0));
}

}  // namespace svdprune::cuda::purifying
