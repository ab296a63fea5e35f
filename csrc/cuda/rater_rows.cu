// rater_scores: the raters' rows of softmax(scale q k^T), their visual columns, and means over heads and raters,
// in three launches.
//
//   rater_rows_kernel       a block: 16 raters and a head; its 8 warps share the keys, tile by tile. Online softmax:
//                           the largest product of each row and its sum of exponentials.
//   rater_attention_kernel  a block: 16 raters and 32 visual columns; its 8 warps share the heads, compute the
//                           products again and add their shares up in order. No row of a single head is stored.
//   rater_means_kernel      a thread: the mean over the raters of one column, or the mass of one head.
//
// Reading the visual keys twice costs less than keeping [B, H, R, N] would: keys of a prompt stay in the L2 cache.
// Exponentials and sums are float32, for float64 float64, in a fixed order: deterministic. A row without keys is
// zeros; NaN stays in its row.

#include "rater_tile.cuh"
#include "warp.cuh"

#include <limits>

namespace svdprune::cuda {

namespace {

// Largest product of a row so far, and the sum of the exponentials over e to that.
template <class T>
struct RowSum {
  T largest = -std::numeric_limits<T>::infinity();
  T sum = 0;  // NaN once a product was

  // What exponents are taken over: 0 as long as there is no product.
  __device__ T base() const {
    return largest == -std::numeric_limits<T>::infinity() ? T(0) : largest;
  }
  __device__ void add(const RowSum& other) {
    const T before = largest;
    largest = other.largest > largest ? other.largest : largest;
    sum = sum * exponential(before - base()) + other.sum * exponential(other.largest - base());
  }
};

template <class S>
__global__ void __launch_bounds__(kThreads) rater_rows_kernel(RaterCall call, Vectors vectors) {
  using T = Working<S>;
  const RaterArgs& args = call.args;
  const int64_t b = blockIdx.y, head = blockIdx.x % args.heads;
  const int64_t first = blockIdx.x / args.heads * kTileRaters;
  const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  const Rater raters[2] = {rater_at(call, b, first + g), rater_at(call, b, first + g + 8)};
  const int64_t most = most_keys(raters);
  if (most == 0 || weight_of<T>(call, b, head) == 0) {
    return;
  }
  const int64_t key_head = head / (args.heads / args.key_heads);
  const S* q[2];
  for (int r = 0; r < 2; ++r) {
    q[r] = raters[r].keys > 0 ? row_of<S>(args.q, b, head, raters[r].query) : nullptr;
  }

  RowSum<T> rows[2];
  for (int64_t key = warp * kTileKeys; key < most; key += kWarps * kTileKeys) {
    T products[kKeyGroups][4];
    const auto key_row = [&](int group, int column) {
      const int64_t j = key + 8 * group + column;
      return j < most ? row_of<S>(args.k, b, key_head, j) : nullptr;
    };
    tile_products<S>(args, q, key_row, vectors, products);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      RowSum<T> tile;
#pragma unroll
      for (int i = 0; i < 2 * kKeyGroups; ++i) {
        T& product = products[i / 2][2 * r + i % 2];
        const int64_t j = key + 8 * (i / 2) + 2 * t + i % 2;
        product = sees(args, b, head, raters[r], j) ? product * static_cast<T>(args.scale)
                                                    : -std::numeric_limits<T>::infinity();
        tile.largest = product > tile.largest ? product : tile.largest;
      }
#pragma unroll
      for (int i = 0; i < 2 * kKeyGroups; ++i) {
        tile.sum += exponential(products[i / 2][2 * r + i % 2] - tile.base());
      }
      rows[r].add(tile);
    }
  }

  __shared__ T shared[kWarps][kTileRaters][2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    for (int lanes = 1; lanes < 4; lanes *= 2) {
      rows[r].add(
          {__shfl_xor_sync(~0u, rows[r].largest, lanes), __shfl_xor_sync(~0u, rows[r].sum, lanes)});
    }
    if (t == 0) {
      shared[warp][g + 8 * r][0] = rows[r].largest;
      shared[warp][g + 8 * r][1] = rows[r].sum;
    }
  }
  __syncthreads();
  const int64_t place = first + threadIdx.x;
  if (threadIdx.x < kTileRaters && place < args.raters) {
    RowSum<T> row;
    for (int w = 0; w < kWarps; ++w) {
      row.add({shared[w][threadIdx.x][0], shared[w][threadIdx.x][1]});
    }
    T* out = static_cast<T*>(call.rows) + 2 * ((b * args.heads + head) * args.raters + place);
    out[0] = row.base();
    out[1] = row.sum == 0 ? T(0) : 1 / row.sum;
  }
}

template <class S>
__global__ void __launch_bounds__(kThreads)
    rater_attention_kernel(RaterCall call, Vectors vectors) {
  using T = Working<S>;
  const RaterArgs& args = call.args;
  const int64_t column_tiles = (args.columns + kTileKeys - 1) / kTileKeys;
  const int64_t b = blockIdx.y, first = blockIdx.x / column_tiles * kTileRaters;
  const int64_t first_column = blockIdx.x % column_tiles * kTileKeys;
  const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;

  __shared__ int columns[kTileKeys];
  read_columns(call, b, first_column, columns);

  const Rater raters[2] = {rater_at(call, b, first + g), rater_at(call, b, first + g + 8)};
  const bool any = most_keys(raters) > 0;
  T paid[kKeyGroups][4] = {};
  for (int64_t head = warp; head < args.heads; head += kWarps) {
    T mass = 0;
    if (any && weight_of<T>(call, b, head) != 0) {
      const T weight = weight_of<T>(call, b, head);
      pay<S>(call, vectors, b, head, first, raters, columns, [&](int group, int i, T share) {
        paid[group][i] += weight * share;
        mass += share;
      });
    }
    mass = warp_sum(mass);
    if (threadIdx.x % 32 == 0) {
      static_cast<T*>(call.masses)[(b * args.heads + head) * gridDim.x + blockIdx.x] = mass;
    }
  }

  __shared__ T shares[kWarps][kTileRaters][kTileKeys];
#pragma unroll
  for (int group = 0; group < kKeyGroups; ++group) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      shares[warp][g + 8 * (i / 2)][8 * group + 2 * t + i % 2] = paid[group][i];
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < kTileRaters * kTileKeys; i += kThreads) {
    const int64_t rater = first + i / kTileKeys, column = first_column + i % kTileKeys;
    if (rater < args.raters && column < args.columns) {
      T sum = 0;
      for (int w = 0; w < kWarps; ++w) {
        sum += shares[w][i / kTileKeys][i % kTileKeys];
      }
      static_cast<T*>(call.attention)[(b * args.raters + rater) * args.columns + column] = sum;
    }
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads) rater_means_kernel(RaterCall call, int64_t tiles) {
  const RaterArgs& args = call.args;
  const int64_t b = blockIdx.y, i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= args.columns + args.heads) {
    return;
  }
  const int64_t raters = number_of_raters(call, b);
  const bool score = i < args.columns;
  const int64_t head = i - args.columns, count = score ? args.raters : tiles;
  const T* from = score ? static_cast<const T*>(call.attention) + b * args.raters * args.columns + i
                        : static_cast<const T*>(call.masses) + (b * args.heads + head) * tiles;
  const int64_t stride = score ? args.columns : 1;
  T sum = 0;
  for (int64_t n = 0; n < count; ++n) {
    sum += from[n * stride];
  }
  T* to = score ? static_cast<T*>(call.scores) + b * args.columns + i
                : static_cast<T*>(call.head_mass) + b * args.heads + head;
  *to = raters > 0 ? sum / static_cast<T>(raters) : T(0);
}

}  // namespace

int64_t rater_tiles(const RaterArgs& args) {
  return int64_t{blocks_for(args.raters, kTileRaters)} * blocks_for(args.columns, kTileKeys);
}

void launch_rater_rows(const RaterCall& call, cudaStream_t stream) {
  const RaterArgs& args = call.args;
  with_type(call.dtype, [&](auto number) {
    using S = decltype(number);
    const Vectors vectors{aligned_rows<S>(args.q), aligned_rows<S>(args.k)};
    launch("rater_rows_kernel", rater_rows_kernel<S>,
           rater_grid(args, args.heads * blocks_for(args.raters, kTileRaters)), kThreads, stream,
           call, vectors);
  });
}

void launch_rater_scores(const RaterCall& call, cudaStream_t stream) {
  const RaterArgs& args = call.args;
  const int64_t tiles = rater_tiles(args);
  const auto grid = [&](int64_t x) { return rater_grid(args, x); };
  if (args.prompts == 0) {
    return;
  }
  if (tiles > 0) {
    launch_rater_rows(call, stream);
  }
  with_type(call.dtype, [&](auto number) {
    using S = decltype(number);
    const Vectors vectors{aligned_rows<S>(args.q), aligned_rows<S>(args.k)};
    if (tiles > 0) {
      launch("rater_attention_kernel", rater_attention_kernel<S>, grid(tiles), kThreads, stream,
             call, vectors);
    }
    launch("rater_means_kernel", rater_means_kernel<Working<S>>,
           grid(blocks_for(args.columns + args.heads, kThreads)), kThreads, stream, call, tiles);
  });
}

}  // namespace svdprune::cuda
