// Stage 4 of 5, select: which tokens stay.
//
// See Note [selection without sorting] in select.cuh.

#include "select.cuh"

namespace svdprune::cuda {

namespace {

constexpr int kTokens = 32;  // a block's tokens, one a thread along x
constexpr int kShares = 8;   // of all tokens, that a token meets side by side, one a thread along y
constexpr int kThreads = kTokens * kShares;

// A block: 32 tokens of one image, 8 threads each, which meet every eighth token of it; 256 tokens at a time stand in
// shared memory. Sums in float64, in a fixed order.
template <class T>
__global__ void select_kernel(Images x, const T* scores, const int32_t* ranks, Budget budget,
                              uint8_t* kept) {
  __shared__ T tile[kThreads];
  __shared__ int64_t before[kShares][kTokens];
  __shared__ double covered[kShares][kTokens], total[kShares][kTokens];
  const int64_t b = blockIdx.y;
  const int column = threadIdx.x, share = threadIdx.y, thread = share * kTokens + column;
  const int64_t token = static_cast<int64_t>(blockIdx.x) * kTokens + column;
  const int64_t first = first_token(x, b);
  const int64_t length = length_of(x, b);
  const int64_t places = places_of(budget, b);
  const T own = token < length ? scores[first + token] : T(0);

  Standing standing;
  for (int64_t start = 0; start < length; start += kThreads) {
    const int64_t loaded = start + thread;
    __syncthreads();
    tile[thread] = loaded < length ? scores[first + loaded] : T(0);
    __syncthreads();
    const int64_t count = min(static_cast<int64_t>(kThreads), length - start);
    for (int64_t k = share; k < count; k += kShares) {
      standing.meet(own, token, tile[k], start + k);
    }
  }
  before[share][column] = standing.before;
  covered[share][column] = standing.covered;
  total[share][column] = standing.total;
  __syncthreads();
  if (share == 0 && token < length) {
    for (int other = 1; other < kShares; ++other) {
      standing.before += before[other][column];
      standing.covered += covered[other][column];
      standing.total += total[other][column];
    }
    kept[first + token] =
        ranks[b] < 0 ? token < places : standing.stays(own, places, budget.coverage);
  }
}

}  // namespace

template <class T>
void launch_select(const Images& x, const T* scores, const int32_t* rank, Budget budget,
                   uint8_t* kept, cudaStream_t stream) {
  const dim3 grid(blocks_for(x.tokens, kTokens), static_cast<unsigned>(x.images));
  const dim3 block(kTokens, kShares);
  launch("select_kernel", select_kernel<T>, grid, block, stream, x, scores, rank, budget, kept);
}

template void launch_select(const Images&, const float*, const int32_t*, Budget, uint8_t*,
                            cudaStream_t);
template void launch_select(const Images&, const double*, const int32_t*, Budget, uint8_t*,
                            cudaStream_t);

}  // namespace svdprune::cuda
