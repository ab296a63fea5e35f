// Stages 2 to 5 in one launch for images with flat spectra: leverage by matrix products alone, on all multiprocessors
// at once. Where many eigenvalues matter, a tridiagonalisation takes as many steps as there are tokens, each with an
// exchange between blocks; purification takes some 40 products, and a barrier each.
//
//   steering  what the next step is (Note [steering])
//   halves    X in 16-bit numbers
//   square    a tile of X^2
//
// Cooperative. A block has a run of the lower tiles [64, 32] of all images; the other half of X mirrors them. In step k
// its eight workers, warps, multiply, while a ninth reads the sums that all blocks left in step k - 1, and so decides
// what all of them decide. Then the workers make the tile of the next X, of which two take turns, and its sums. One
// barrier of all blocks a step. Deterministic, and the same for an image whatever batch it comes in. Empty for devices
// without clusters, on which no image is handed over.

#include "gather.cuh"
#include "grid.cuh"
#include "purify.h"
#include "purify/square.cuh"
#include "select.cuh"

#include <algorithm>
#include <limits>
#include <map>
#include <mutex>

namespace svdprune::cuda {

namespace {

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

// What the Gram kernel's tiles add up to: trace and squared norm, in every lane.
struct Size {
  double trace, norm;
};

__device__ inline Size size_of(const Purify& a, int64_t b) {
  const double* const partials = a.partials + 2 * b * a.parts;
  const int lane = threadIdx.x % 32, parts = static_cast<int>(a.parts);
  const double trace = warp_sum_of(lane, parts, [&](int i) { return partials[2 * i]; });
  const double square = warp_sum_of(lane, parts, [&](int i) { return partials[2 * i + 1]; });
  return {trace, sqrt(square)};
}

// What is done with the newest X of image b in step k, the same in all blocks: to shared memory. By one warp.
__device__ inline void decide(const Images& x, const Purify& a, int k, int64_t b) {
  Shared& s = shared();
  if (s.image == b && s.step == k) {
    return;
  }
  const int lane = threadIdx.x % 32, turn = k % 2;
  const int tiles = static_cast<int>(purify_tiles(x.tokens));
  const double* const sums = sums_of(x, a, turn, b);
  const State state = a.states[turn * x.images + b];
  double total[kPurifySums] = {};
  constexpr int kAhead = 4;  // reads that are under way together
  for (int base = lane; base < tiles; base += 32 * kAhead) {
#pragma unroll
    for (int ahead = 0; ahead < kAhead; ++ahead) {
      const int tile = base + 32 * ahead;
      const auto* const of_tile =
          reinterpret_cast<const double2*>(sums + min(tile, tiles - 1) * kPurifySums);
#pragma unroll
      for (int q = 0; q < kPurifySums; q += 2) {
        const double2 pair = __ldcg(of_tile + q / 2);
        total[q] += tile < tiles ? pair.x : 0;
        total[q + 1] += tile < tiles ? pair.y : 0;
      }
    }
  }
  const double own = warp_sum_of_eight(lane, total);
#pragma unroll
  for (int q = 0; q < kPurifySums; ++q) {
    total[q] = __shfl_sync(kAllLanes, own, 4 * q);
  }
  const State next =
      purify::next(state, {total[0], total[1], total[2], total[3], total[4], total[5]}, a.variance,
                   static_cast<int>(length_of(x, b)));
  __syncwarp();
  if (lane == 0) {
    s.state = next;
    s.image = static_cast<int>(b);
    s.step = k;
  }
}

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
  constexpr float kShift = 0x1p-20f;
  float* const scratch = reinterpret_cast<float*>(dynamic_shared());
  const Place place(tile);
  const auto scale = static_cast<float>(1 / (size_of(a, tile.b).norm * (1 + 2 * kShift)));
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
  a.scores[first_token(x, tile.b) + i] =
      static_cast<float>(fmin(fmax(before + state.weight * y, 0.0), 1.0));
}

__device__ inline void write_result(const Purify& a, int64_t b, const State& state) {
  a.rank[b] = state.rank;
  if (a.steps) {
    a.steps[b] = state.products;
  }
  if (a.solvers) {
    a.solvers[b] = a.solver;
  }
}

// Step k of one tile. The newest X is that of turn k % 2.
__device__ inline void advance(const Images& x, const Purify& a, const Tile& tile, int k) {
  Shared& s = shared();
  const int turn = k % 2;
  State* const states = a.states + tile.b;
  if (s.done[tile.b] < k) {
    if (tile.number == 0 && threadIdx.x == 0) {
      states[(1 - turn) * x.images] = states[turn * x.images];
    }
    return;
  }
  float own[kNeighbours], g[kNeighbours];
  if (is_worker()) {
    const HalvesMatrix matrix = matrix_of(x, a, turn, tile.b);
    Square square(matrix, tile.row, tile.col, tile.n, dynamic_shared());
    square.start();
    const Place place(tile);
    read_numbers(matrix, place.row, place.col, own);  // under way meanwhile
    read_gram(x, a, tile, g);
    square.finish(reinterpret_cast<float*>(dynamic_shared()));
  } else {
    decide(x, a, k, tile.b);
  }
  __syncthreads();
  const State state = s.state;
  if (is_worker()) {
    if (state.step == Step::kStart) {
      start(x, a, tile, 1 - turn);
    } else if (state.step == Step::kDone) {
      write_scores(x, a, tile, turn, state);
    } else {
      step(x, a, tile, 1 - turn, state.step == Step::kRaise, own, g);
    }
  }
  if (threadIdx.x == 0) {
    const bool done = state.step == Step::kDone;
    s.done[tile.b] = done ? k : kNotYet;
    if (tile.number == 0) {
      states[(1 - turn) * x.images] = state;
      if (done) {
        write_result(a, tile.b, state);
      }
    }
  }
  __syncthreads();  // the ring is free, and `done` is seen
}

// Whether all images are done; the same in all blocks, of which each has tiles of one image at least.
__device__ inline bool all_done(const Images& x, const Purify& a, int turn) {
  if (x.images == 1) {
    return shared().done[0] != kNotYet;
  }
  const bool goes_on =
      threadIdx.x < x.images && a.states[turn * x.images + threadIdx.x].step != Step::kDone;
  return __syncthreads_or(goes_on) == 0;
}

// Stage 4 of the images that were solved here; a warp a token.
__device__ inline void select_tokens(const Images& x, const Purify& a, int64_t b) {
  const int64_t first = first_token(x, b), length = length_of(x, b);
  const int64_t places = places_of(a.budget, b);
  const int lane = threadIdx.x % 32;
  const float* const scores = a.scores + first;
  for (int64_t token = blockIdx.x + gridDim.x * (threadIdx.x / 32); token < length;
       token += gridDim.x * (kAllThreads / 32)) {
    const float own = __ldcg(scores + token);
    Standing standing;
    for (int64_t other = lane; other < length; other += 32) {
      standing.meet(own, token, __ldcg(scores + other), other);
    }
    standing.before = warp_sum(static_cast<int>(standing.before));
    if (a.budget.coverage > 0) {
      standing.covered = warp_sum(standing.covered);
      standing.total = warp_sum(standing.total);
    }
    if (lane == 0) {
      a.kept[first + token] = standing.stays(places, a.budget.coverage);
    }
  }
}

__device__ inline void purify_images(const Images& x, const Purify& a) {
  const bool any = __syncthreads_or(threadIdx.x < x.images && a.rank[threadIdx.x] == kHandedOver);
  if (!any) {
    return;
  }
  if (threadIdx.x < kMostPurified) {
    const int b = threadIdx.x;
    shared().done[b] = b < x.images && a.rank[b] != kHandedOver ? 0 : kNotYet;
  }
  if (threadIdx.x == 0) {
    shared().image = -1;
  }
  __syncthreads();
  for_tiles(x, [&](const Tile& tile) {
    if (!is_worker()) {
      return;
    }
    const bool handed_over = shared().done[tile.b] == kNotYet;
    if (handed_over) {
      start(x, a, tile, 1);
      sync_first(kThreads);
    }
    if (tile.number == 0 && threadIdx.x < 32) {
      const double trace = size_of(a, tile.b).trace;
      const Step first = handed_over ? Step::kStart : Step::kDone;
      if (threadIdx.x == 0) {
        a.states[x.images + tile.b] = {first, false, 0, 0, 0, 0, trace};
      }
    }
  });
  grid_sync();
  int k = 1;  // X_0 is that of turn 1
  for (; !all_done(x, a, k % 2); ++k) {
    for_tiles(x, [&](const Tile& tile) { advance(x, a, tile, k); });
    grid_sync();
  }
  if (!a.selects) {
    return;
  }
  const auto for_solved = [&](auto&& f) {
    for (int64_t b = 0; b < x.images; ++b) {
      if (a.states[k % 2 * x.images + b].products > 0) {
        f(b);
      }
    }
  };
  for_solved([&](int64_t b) { select_tokens(x, a, b); });
  grid_sync();
  for_solved([&](int64_t b) {
    gather_rows(x, b, a.budget, a.kept + first_token(x, b),
                blockIdx.x + gridDim.x * (threadIdx.x / 32), gridDim.x * (kAllThreads / 32),
                static_cast<char*>(a.tokens), a.indices, a.count);
  });
}

__global__ __launch_bounds__(kAllThreads, 1) void purify_kernel(Images x, Purify a) {
  if constexpr (kClusters) {
    purify_images(x, a);
  }
}

}  // namespace

int purify_blocks(int64_t images, int64_t tokens) {
  int device = 0;
  if (images > kMostPurified || tokens > kMostPurifiedTokens ||
      cudaGetDevice(&device) != cudaSuccess) {
    return 0;
  }
  static std::mutex mutex;
  static std::map<int, int> answers;  // by device
  const std::lock_guard lock(mutex);
  const auto [answer, is_new] = answers.try_emplace(device);
  if (is_new) {
    answer->second = most_blocks(purify_kernel, kAllThreads, kSharedBytes);
  }
  return static_cast<int>(std::min<int64_t>(images * purify_tiles(tokens), answer->second));
}

void launch_purify(const Images& x, const Purify& arguments, int blocks, cudaStream_t stream) {
  launch_together("purify_kernel", purify_kernel, blocks, kAllThreads, kSharedBytes, stream, x,
                  arguments);
}

}  // namespace svdprune::cuda
