// A 64 x 64 tile of products A Bᵀ as 256 threads sum it up, of two panels [64 rows, 128 bytes] in shared
// memory: on tensor cores for 16-bit numbers, by float32's own multiply-adds for float32.
#pragma once

#include "device.cuh"
#include "tensor_core.cuh"

namespace svdprune::cuda {

constexpr int kTile = 64;
constexpr int kThreads = 256;
constexpr int kRowBytes = 128;  // of a panel: all 32 banks
constexpr int kPieces = kRowBytes / 16;
constexpr int kPanelBytes = kTile * kRowBytes;
constexpr int kSumStride = kTile + 1;  // of the tile: down a column, every row is in another bank

// Where 16 bytes of a row lie in a panel: pieces are exchanged among themselves such that eight
// neighbouring rows have the same piece in different banks.
__device__ inline int place_of(int row, int piece) {
  return row * kRowBytes + ((piece ^ (row % 8)) * 16);
}

// A thread's sums of the tile, A Bᵀ of two panels, on tensor cores: warp w has rows 32 (w / 4) and
// columns 16 (w % 4) onwards.
template <class S>
struct Sums {
  float sums[2][2][4] = {};  // by 16 rows, 8 columns

  __device__ static int first_row() {
    return threadIdx.x / 128 * 32;
  }
  __device__ static int first_col() {
    return threadIdx.x / 32 % 4 * 16;
  }

  __device__ void add(const unsigned char* a, const unsigned char* b) {
    const int lane = threadIdx.x % 32;
    __syncwarp();
#pragma unroll
    for (int piece = 0; piece < kPieces; piece += 2) {  // 16 features
      uint32_t left[2][4], right[4];
      for (int i = 0; i < 2; ++i) {
        const int row = first_row() + 16 * i + lane % 16;
        load_matrices(left[i], a + place_of(row, piece + lane / 16));
      }
      const int row = first_col() + lane / 16 * 8 + lane % 8;
      load_matrices(right, b + place_of(row, piece + lane / 8 % 2));
      for (int i = 0; i < 2; ++i) {
        for (int j = 0; j < 2; ++j) {
          multiply_add<S>(sums[i][j], left[i], right[2 * j], right[2 * j + 1]);
        }
      }
    }
  }

  __device__ void store(float* tile) const {
    const int lane = threadIdx.x % 32;
    for (int i = 0; i < 2; ++i) {
      for (int j = 0; j < 2; ++j) {
        for (int s = 0; s < 4; ++s) {
          const int row = first_row() + 16 * i + 8 * (s / 2) + lane / 4;
          const int col = first_col() + 8 * j + 2 * (lane % 4) + s % 2;
          tile[row * kSumStride + col] = sums[i][j][s];
        }
      }
    }
  }
};

// In float32: a thread has every sixteenth row and every sixteenth column.
template <>
struct Sums<float> {
  float sums[4][4] = {};

  __device__ static int first_row() {
    return threadIdx.x / 16;
  }
  __device__ static int first_col() {
    return threadIdx.x % 16;
  }

  __device__ void add(const unsigned char* a, const unsigned char* b) {
#pragma unroll
    for (int piece = 0; piece < kPieces; ++piece) {  // 4 features
      float4 left[4], right[4];
      for (int i = 0; i < 4; ++i) {
        left[i] = *reinterpret_cast<const float4*>(a + place_of(first_row() + 16 * i, piece));
        right[i] = *reinterpret_cast<const float4*>(b + place_of(first_col() + 16 * i, piece));
      }
      for (int i = 0; i < 4; ++i) {
        for (int j = 0; j < 4; ++j) {
          float sum = fmaf(left[i].x, right[j].x, sums[i][j]);
          sum = fmaf(left[i].y, right[j].y, sum);
          sum = fmaf(left[i].z, right[j].z, sum);
          sums[i][j] = fmaf(left[i].w, right[j].w, sum);
        }
      }
    }
  }

  __device__ void store(float* tile) const {
    for (int i = 0; i < 4; ++i) {
      for (int j = 0; j < 4; ++j) {
        tile[(first_row() + 16 * i) * kSumStride + first_col() + 16 * j] = sums[i][j];
      }
    }
  }
};

}  // namespace svdprune::cuda
