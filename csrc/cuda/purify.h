// Host and device: what the purify kernel works on.
#pragma once

#include "../host_device.h"
#include "launch.h"
#include "purify/steering.h"

namespace svdprune::cuda {

// An image that eig_select_kernel leaves to purify_kernel has this rank meanwhile.
constexpr int32_t kHandedOver = -2;

constexpr int64_t kMostPurified = 64;          // images of a call
constexpr int64_t kMostPurifiedTokens = 1024;  // of an image
// Numbers a tile: those of purify::Sums, and two that are not used.
constexpr int64_t kPurifySums = 8;

struct Purify {
  const double* partials;  // [B, parts, 2], as launch_gram_fused leaves them
  int64_t parts;
  const float* gram;  // [B, N, N] full, in row strides of N
  RankRule rule;
  void* x;       // scratch [2, B, 2, side, side] of 16 bits each: X in halves, two that take turns
  double* sums;  // scratch [2, B, tiles, kPurifySums]
  purify::State* states;  // scratch [2, B]
  uint8_t* kept;          // scratch [B, N], packed [T]
  int32_t* solvers;       // [B]: `solver`, for images that were solved here; or null
  int32_t solver;
  Outputs out;  // rank: kHandedOver for images to solve; steps: products
};

// Side of X for N tokens.
SVDPRUNE_HOST_DEVICE constexpr int64_t purify_side(int64_t tokens) {
  return (tokens + 63) / 64 * 64;
}

// Tiles of one image.
SVDPRUNE_HOST_DEVICE constexpr int64_t purify_tiles(int64_t tokens) {
  const int64_t rows = purify_side(tokens) / 64;
  return rows * (rows + 1);
}

// Blocks that run at the same time on the current device for such a batch; 0 where it cannot run. Asks the driver,
// waits for nothing.
int purify_blocks(int64_t images, int64_t tokens);

// Whether so many blocks are done sooner than full tridiagonalisations, which run side by side. On an H200 a tile a block
// took 0.31 ms for 256 tokens, where those took 0.53, and three 1.2 ms for 576 tokens, where they took 1.6.
constexpr bool purify_pays(int64_t images, int64_t tokens, int64_t blocks) {
  constexpr int64_t kTokensARound = 192;
  return images * purify_tiles(tokens) <= tokens / kTokensARound * blocks;
}

// Images of rank kHandedOver from their Gram matrices to their kept tokens, in one launch; the others are left alone.
// blocks: as many as purify_blocks says at most, and no more than all images have tiles.
void launch_purify(const Images& x, const Purify& arguments, int blocks, cudaStream_t stream);

}  // namespace svdprune::cuda
