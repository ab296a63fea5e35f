// A tile of X^2, for a symmetric X in halves.
//
// Note [products of halves]
// With X = H + L / 2^11 a product is H H + (H L + L H) / 2^11 and a part below 2^-22, which is left out: three products
// of 16-bit numbers, with float32 sums, those of H H apart.
//
// 256 threads, a tile of 64 x 32. All the rows that it takes, [64 + 32, side], pass through a ring of panels of 64
// columns. Of each panel's columns a warp takes a quarter, with half of the tile's rows: 32 x 32 sums, for which it reads
// a third of what it multiplies.
#pragma once

#include "../gram_sums.cuh"
#include "../warp.cuh"
#include "halves.cuh"

namespace svdprune::cuda {

constexpr int kTileRows = 64, kTileCols = 32;
constexpr int kPanelColumns = kRowBytes / 2;
constexpr int kHalfPanelBytes = kTileCols * kRowBytes;  // of 32 rows
constexpr int kSquarePanelBytes =
    2 * 3 * kHalfPanelBytes;  // hi and lo of the tile's rows, then of its columns
// In the ring: all of 576 tokens. Under emulation as few as it works with, so that few tokens fill it more than once.
#ifdef SVDPRUNE_EMULATED
constexpr int kPanels = 2;
#else
constexpr int kPanels = 9;
#endif
constexpr int kRingBytes = kPanels * kSquarePanelBytes;
constexpr int kQuarters = 4;
constexpr int kTileStride = kTileCols + 1;  // down a column, every row is in another bank
static_assert(kQuarters * kTileRows * kTileStride * sizeof(float) <= kRingBytes);

class Square {
 public:
  // x: [side, side], of which the first `columns` are not zero.
  __device__ Square(const HalvesMatrix& x, int row, int col, int columns, unsigned char* ring)
      : ring_(ring), panels_((columns + kPanelColumns - 1) / kPanelColumns) {
    const int piece = threadIdx.x % kPieces, r = threadIdx.x / kPieces;
    from_rows_ = x.hi + static_cast<int64_t>(row + r) * x.side + piece * (16 / 2);
    from_cols_ = x.hi + static_cast<int64_t>(col + r) * x.side + piece * (16 / 2);
    to_lo_ = x.lo - x.hi;
    later_rows_ = static_cast<int64_t>(kTileRows / 2) * x.side;
    to_ = place_of(r, piece);
  }

  // Sends for as much as there is room for, but for a panel.
  __device__ void start() const {
    for (int number = 0; number < kPanels - 1; ++number) {
      load(number);
    }
  }

  // The quarters' sums of the tile to sums [4, 64, kTileStride], in place of the ring.
  __device__ void finish(float* sums) {
#pragma unroll 1
    for (int number = 0; number < panels_; ++number) {
      wait_for_copies<kPanels - 2>();
      sync_first(kThreads);
      load(number + kPanels - 1);
      add(panel(number));
    }
    sync_first(kThreads);
    store(sums + quarter() * kTileRows * kTileStride);
    sync_first(kThreads);
  }

 private:
  __device__ static int quarter() {
    return threadIdx.x / 32 % kQuarters;
  }
  __device__ static int first_row() {
    return threadIdx.x / 128 * 32;
  }

  __device__ unsigned char* panel(int number) const {
    return ring_ + number % kPanels * kSquarePanelBytes;
  }

  __device__ void load(int number) const {
    if (number < panels_) {
      unsigned char* const to = panel(number) + to_;
      const int column = number * kPanelColumns;
#pragma unroll
      for (int which = 0; which < 2; ++which) {
        const __half* const rows = from_rows_ + column + which * to_lo_;
        copy_async(to + (2 * which) * kHalfPanelBytes, rows, 16);
        copy_async(to + (2 * which + 1) * kHalfPanelBytes, rows + later_rows_, 16);
        copy_async(to + (4 + which) * kHalfPanelBytes, from_cols_ + column + which * to_lo_, 16);
      }
    }
    commit_copies();
  }

  __device__ void add(const unsigned char* panel) {
    const int lane = threadIdx.x % 32, piece = 2 * quarter();
    uint32_t left[2][2][4], right[2][2][4];  // by part; by 16 rows, by 16 columns
#pragma unroll
    for (int which = 0; which < 2; ++which) {
      const unsigned char* const rows = panel + 2 * which * kHalfPanelBytes;
      const unsigned char* const cols = panel + (4 + which) * kHalfPanelBytes;
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        load_matrices(left[which][i],
                      rows + place_of(first_row() + 16 * i + lane % 16, piece + lane / 16));
        load_matrices(right[which][i],
                      cols + place_of(16 * i + lane / 16 * 8 + lane % 8, piece + lane / 8 % 2));
      }
    }
    const auto times = [&](float (&sums)[2][4][4], int a, int b) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          multiply_add<__half>(sums[i][j], left[a][i], right[b][j / 2][j % 2 * 2],
                               right[b][j / 2][j % 2 * 2 + 1]);
        }
      }
    };
    times(high_, 0, 0);
    times(mixed_, 0, 1);
    times(mixed_, 1, 0);
  }

  __device__ void store(float* tile) const {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
#pragma unroll
        for (int s = 0; s < 4; ++s) {
          const int row = first_row() + 16 * i + 8 * (s / 2) + lane / 4;
          const int col = 8 * j + 2 * (lane % 4) + s % 2;
          tile[row * kTileStride + col] = high_[i][j][s] + mixed_[i][j][s] / kLowScale;
        }
      }
    }
  }

  unsigned char* ring_;
  int panels_;
  const __half *from_rows_, *from_cols_;  // of this thread's first pieces, hi
  int64_t to_lo_, later_rows_;
  int to_;
  float high_[2][4][4] = {}, mixed_[2][4][4] = {};  // by 16 rows, 8 columns
};

}  // namespace svdprune::cuda
