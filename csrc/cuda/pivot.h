// The launch of rule "pivoted"; as launch.h, whose conventions hold.
#pragma once

#include "../host_device.h"
#include "launch.h"

namespace svdprune::cuda {

template <class T>
struct Pivot {
  const T* gram;  // [B, N, N] full, tokens' side; zeros behind an image's end
  const double*
      largest;  // [B], as launch_largest_magnitude leaves it: not finite where the image is not
  // Numbers that a block holds in shared memory in place of scratch; pivot_on_chip. The results are the same.
  int64_t on_chip;
  double* left;     // scratch [B, pivot_numbers(N)]
  double* rows;     // scratch [places of all images, N]
  int32_t* picked;  // scratch [places of all images]
  Budget budget;
  T* scores;  // [B, N], packed [T]: of the energy, what each picked token adds; 0 for all others
  int32_t* ranks;  // [B]: picks that had something of their own left
  uint8_t* kept;   // [B, N], packed [T]: 1 for a token that stays
};

// The `on_chip` that suits the current device. Asks the driver, waits for nothing.
int64_t pivot_on_chip(const Images& x, const Budget& budget);

constexpr int kPivotWarps = 8;  // of a block, at most

// Numbers of an image of N tokens that a block works on, but for the rows: even, so that those are aligned.
SVDPRUNE_HOST_DEVICE constexpr int64_t pivot_numbers(int64_t tokens) {
  return (3 * tokens + 1) / 2 * 2;
}

// Stage 4 of "pivoted", all picks in one launch, a block an image. An image that is not finite gets NaN scores and
// rank -1, and keeps its first tokens.
template <class T>
void launch_pivot(const Images& x, const Pivot<T>& arguments, cudaStream_t stream);

}  // namespace svdprune::cuda
