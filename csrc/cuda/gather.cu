// Stage 5 of 5, gather: the kept tokens' features, bit for bit.

#include "gather.cuh"

namespace svdprune::cuda {

namespace {

constexpr int kWarps = 8;  // of a block, and its tokens
constexpr int kThreads = 32 * kWarps;

// Tokens that stay: of an image, and before a block's own.
struct Counts {
  int before, all;
};

__device__ inline Counts count(const uint8_t* kept, int64_t length, int64_t first_own) {
  __shared__ int before[kWarps], all[kWarps];
  const int warp = threadIdx.x / 32;
  int own_before = 0, own_all = 0;
  for (int64_t i = threadIdx.x; i < length; i += kThreads) {
    own_all += kept[i];
    own_before += i < first_own ? kept[i] : 0;
  }
  own_before = warp_sum(own_before);
  own_all = warp_sum(own_all);
  if (threadIdx.x % 32 == 0) {
    before[warp] = own_before;
    all[warp] = own_all;
  }
  __syncthreads();
  Counts counts{0, 0};
  for (int other = 0; other < kWarps; ++other) {
    counts.before += before[other];
    counts.all += all[other];
  }
  return counts;
}

// A block: 8 tokens of one image, a warp each. It counts the kept tokens before its own, which gives theirs their
// places. Places left over are shared out among the image's blocks.
__global__ void gather_kernel(Images x, const uint8_t* kept, Budget budget, Kept to) {
  const int64_t b = blockIdx.y;
  const int64_t first_own = static_cast<int64_t>(blockIdx.x) * kWarps;
  const uint8_t* const own = kept + first_token(x, b);
  const int64_t length = length_of(x, b);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const bool stays = lane < kWarps && first_own + lane < length && own[first_own + lane] != 0;
  const Counts counts = count(own, length, first_own);
  const unsigned mask = __ballot_sync(kAllLanes, stays);
  const int64_t place = counts.before + __popc(mask & ((1u << warp) - 1));
  if ((mask >> warp & 1) != 0 && place < places_of(budget, b)) {
    put_row(x, b, budget, first_own + warp, place, to);
  }
  end_rows(x, b, budget, counts.all, first_own + warp, static_cast<int64_t>(gridDim.x) * kWarps,
           to);
}

}  // namespace

void launch_gather(const Images& x, const uint8_t* kept, Budget budget, void* tokens,
                   int64_t* indices, int32_t* count, cudaStream_t stream) {
  const dim3 grid(blocks_for(x.tokens, kWarps), static_cast<unsigned>(x.images));
  launch("gather_kernel", gather_kernel, grid, kThreads, stream, x, kept, budget,
         Kept{static_cast<char*>(tokens), indices, count});
}

}  // namespace svdprune::cuda
