// rater_scores_by_head: what the raters pay to the visual columns through each head, over a divisor, mean over the
// raters; in two launches, of which the first is rater_rows_kernel.
//
//   rater_heads_kernel      a block: a head and 32 visual columns; its 8 warps share the raters, 16 at a time, and their
//                           sums are added up in order. No row of a head is stored.
//
// Sums are float32, for float64 float64, in a fixed order: deterministic.

#include "rater_tile.cuh"

namespace svdprune::cuda {

namespace {

template <class S>
__global__ void __launch_bounds__(kThreads) rater_heads_kernel(RaterCall call, Vectors vectors) {
  using T = Working<S>;
  const RaterArgs& args = call.args;
  const int64_t column_tiles = (args.columns + kTileKeys - 1) / kTileKeys;
  const int64_t b = blockIdx.y, head = blockIdx.x / column_tiles;
  const int64_t first_column = blockIdx.x % column_tiles * kTileKeys;
  const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;

  __shared__ int columns[kTileKeys];
  read_columns(call, b, first_column, columns);

  T sums[kKeyGroups][2] = {};
  for (int64_t first = warp * kTileRaters; first < args.raters; first += kWarps * kTileRaters) {
    const Rater raters[2] = {rater_at(call, b, first + g), rater_at(call, b, first + g + 8)};
    if (most_keys(raters) == 0) {
      continue;
    }
    pay<S>(call, vectors, b, head, first, raters, columns, [&](int group, int i, T share) {
      const int64_t row = b * call.divisor_stride + first + g + 8 * (i / 2);
      const int64_t column = first_column + 8 * group + 2 * t + i % 2;
      if (call.divisor && share != 0) {
        share /= static_cast<const T*>(call.divisor)[row * args.columns + column];
      }
      sums[group][i % 2] += share;
    });
  }

  __shared__ T shared[kWarps][kTileKeys];
#pragma unroll
  for (int i = 0; i < 2 * kKeyGroups; ++i) {
    T sum = sums[i / 2][i % 2];
    for (int lanes = 4; lanes < 32; lanes *= 2) {
      sum += __shfl_xor_sync(~0u, sum, lanes);
    }
    if (g == 0) {
      shared[warp][8 * (i / 2) + 2 * t + i % 2] = sum;
    }
  }
  __syncthreads();
  const int64_t column = first_column + threadIdx.x;
  if (threadIdx.x < kTileKeys && column < args.columns) {
    T sum = 0;
    for (int w = 0; w < kWarps; ++w) {
      sum += shared[w][threadIdx.x];
    }
    const int64_t raters = number_of_raters(call, b);
    static_cast<T*>(call.scores)[(b * args.heads + head) * args.columns + column] =
        raters > 0 ? sum / static_cast<T>(raters) : T(0);
  }
}

}  // namespace

void launch_rater_scores_by_head(const RaterCall& call, cudaStream_t stream) {
  const RaterArgs& args = call.args;
  if (args.prompts == 0 || args.columns == 0) {
    return;
  }
  if (args.raters > 0) {
    launch_rater_rows(call, stream);
  }
  with_type(call.dtype, [&](auto number) {
    using S = decltype(number);
    const Vectors vectors{aligned_rows<S>(args.q), aligned_rows<S>(args.k)};
    launch("rater_heads_kernel", rater_heads_kernel<S>,
           rater_grid(args, args.heads * blocks_for(args.columns, kTileKeys)), kThreads, stream,
           call, vectors);
  });
}

}  // namespace svdprune::cuda
