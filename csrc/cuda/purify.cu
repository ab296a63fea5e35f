// Stages 2 to 5 in one launch for images with flat spectra: leverage by matrix products alone, on all multiprocessors
// at once. Where many eigenvalues matter, a tridiagonalisation takes as many steps as there are tokens, each with an
// exchange between blocks; purification takes some 40 products, and a barrier each.
//
//   steering  what the next step is (Note [steering])
//   halves    X in 16-bit numbers
//   square    a tile of X^2
//   work      tiles, and where their numbers lie
//   tile      from one X to the next
//
// Cooperative. A block has a run of the lower tiles [64, 32] of all images; the other half of X mirrors them. In step k
// its eight workers, warps, multiply, while a ninth reads the sums that all blocks left in step k - 1, and so decides
// what all of them decide. Then the workers make the tile of the next X, of which two take turns, and its sums. One
// barrier of all blocks a step. Deterministic, and the same for an image whatever batch it comes in. A trap for devices
// without clusters, on which no image is handed over.

#include "answers.h"
#include "gather.cuh"
#include "grid.cuh"
#include "purify/tile.cuh"
#include "select.cuh"

#include <algorithm>

namespace svdprune::cuda {

namespace {

using namespace purifying;

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
      purify::next(state, {total[0], total[1], total[2], total[3], total[4], total[5]},
                   a.rule.variance, static_cast<int>(length_of(x, b)), a.rule.rank > 0);
  __syncwarp();
  if (lane == 0) {
    s.state = next;
    s.image = static_cast<int>(b);
    s.step = k;
  }
}

__device__ inline void write_result(const Purify& a, int64_t b, const State& state) {
  a.out.rank[b] = state.rank;
  if (a.out.steps) {
    a.out.steps[b] = state.products;
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

// Of all blocks.
__device__ inline int this_warp() {
  return blockIdx.x + gridDim.x * (threadIdx.x / 32);
}

__device__ inline int all_warps() {
  return gridDim.x * (kAllThreads / 32);
}

// Stage 4 of an image that was solved here; a warp a token.
__device__ inline void select_tokens(const Images& x, const Purify& a, int64_t b) {
  const int64_t first = first_token(x, b);
  const int n = static_cast<int>(length_of(x, b));
  for (int token = this_warp(); token < n; token += all_warps()) {
    const bool stays = token_stays(token, n, places_of(a.out.budget, b), a.out.budget.coverage,
                                   [&](int i) { return __ldcg(a.out.scores + first + i); });
    if (threadIdx.x % 32 == 0) {
      a.kept[first + token] = stays;
    }
  }
}

__device__ inline void purify_images(const Images& x, const Purify& a) {
  const bool any =
      __syncthreads_or(threadIdx.x < x.images && a.out.rank[threadIdx.x] == kHandedOver);
  if (!any) {
    return;
  }
  if (threadIdx.x < kMostPurified) {
    const int b = threadIdx.x;
    shared().done[b] = b < x.images && a.out.rank[b] != kHandedOver ? 0 : kNotYet;
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
      const double trace = gram_total(a, tile.b, 0);
      if (threadIdx.x == 0) {
        State state = purify::first(trace, static_cast<int>(a.rule.rank));
        state.step = handed_over ? state.step : Step::kDone;
        a.states[x.images + tile.b] = state;
      }
    }
  });
  grid_sync();
  int k = 1;  // X_0 is that of turn 1
  for (; !all_done(x, a, k % 2); ++k) {
    for_tiles(x, [&](const Tile& tile) { advance(x, a, tile, k); });
    grid_sync();
  }
  if (!a.out.selects) {
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
    gather_rows(x, b, a.out.budget, a.kept + first_token(x, b), this_warp(), all_warps(),
                {static_cast<char*>(a.out.tokens), a.out.indices, a.out.count});
  });
}

__global__ __launch_bounds__(kAllThreads, 1) void purify_kernel(Images x, Purify a) {
  if constexpr (kClusters) {
    purify_images(x, a);
  } else {
    __trap();
  }
}

}  // namespace

int purify_blocks(int64_t images, int64_t tokens) {
  int device = 0;
  if (images > kMostPurified || tokens > kMostPurifiedTokens ||
      cudaGetDevice(&device) != cudaSuccess) {
    return 0;
  }
  static Answers<int> answers;  // by device
  const int at_once =
      answers.of(device, [] { return most_blocks(purify_kernel, kAllThreads, kSharedBytes); });
  return static_cast<int>(std::min<int64_t>(images * purify_tiles(tokens), at_once));
}

void launch_purify(const Images& x, const Purify& arguments, int blocks, cudaStream_t stream) {
  launch_together("purify_kernel", purify_kernel, blocks, kAllThreads, kSharedBytes, stream, x,
                  arguments);
}

}  // namespace svdprune::cuda
