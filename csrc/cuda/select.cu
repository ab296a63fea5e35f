// Stage 4 of 5, select: which tokens stay.
//
// See Note [selection without sorting] in select.cuh.

#include "select.cuh"

namespace svdprune::cuda {

namespace {

constexpr int kThreads = 256;

// A block: 256 tokens of one image, one a thread, against all of its tokens, of which 256 at a time
// stand in shared memory. Sums in float64, ascending index.
template <class T>
__global__ void select_kernel(Images x, const T* scores, const int32_t* ranks, Budget budget,
                              uint8_t* kept) {
  __shared__ T tile[kThreads];
  const int64_t b = blockIdx.y;
  const int64_t token = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t first = first_token(x, b);
  const int64_t length = length_of(x, b);
  const int64_t places = places_of(budget, b);
  const T own = token < length ? scores[first + token] : T(0);

  Standing standing;
  for (int64_t start = 0; start < length; start += kThreads) {
    const int64_t loaded = start + threadIdx.x;
    __syncthreads();
    tile[threadIdx.x] = loaded < length ? scores[first + loaded] : T(0);
    __syncthreads();
    const int64_t count = min(static_cast<int64_t>(kThreads), length - start);
    for (int64_t k = 0; k < count; ++k) {
      standing.meet(own, token, tile[k], start + k);
    }
  }
  if (token < length) {
    kept[first + token] = ranks[b] < 0 ? token < places : standing.stays(places, budget.coverage);
  }
}

}  // namespace

template <class T>
void launch_select(const Images& x, const T* scores, const int32_t* rank, Budget budget,
                   uint8_t* kept, cudaStream_t stream) {
  const dim3 grid(blocks_for(x.tokens, kThreads), static_cast<unsigned>(x.images));
  launch("select_kernel", select_kernel<T>, grid, kThreads, stream, x, scores, rank, budget, kept);
}

template void launch_select(const Images&, const float*, const int32_t*, Budget, uint8_t*,
                            cudaStream_t);
template void launch_select(const Images&, const double*, const int32_t*, Budget, uint8_t*,
                            cudaStream_t);

}  // namespace svdprune::cuda
