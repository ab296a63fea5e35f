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
__global__ void gather_kernel(Images x, int64_t width, const uint8_t* kept, Budget budget,
                              char* tokens, int64_t* indices, int32_t* counts) {
  const int64_t b = blockIdx.y;
  const int64_t first_own = static_cast<int64_t>(blockIdx.x) * kWarps;
  const int64_t first = first_token(x, b);
  const int64_t length = length_of(x, b);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const bool stays =
      lane < kWarps && first_own + lane < length && kept[first + first_own + lane] != 0;
  const Counts kept_tokens = count(kept + first, length, first_own);
  const unsigned mask = __ballot_sync(kAllLanes, stays);

  const int64_t places = places_of(budget, b);
  const int64_t base = first_kept(budget, b);
  const int64_t row_bytes = x.features * width;
  const int64_t own_place = kept_tokens.before + __popc(mask & ((1u << warp) - 1));
  if ((mask >> warp & 1) != 0 && own_place < places) {
    const int64_t token = first_own + warp;
    const char* source = static_cast<const char*>(x.data) + token_offset(x, b, token) * width;
    copy_row(source, x.feature_stride, width, x.features, tokens + (base + own_place) * row_bytes,
             lane);
    if (lane == 0) {
      indices[base + own_place] = x.cu_seqlens ? first + token : token;
    }
  }
  const int64_t step = static_cast<int64_t>(gridDim.x) * kWarps;
  for (int64_t place = kept_tokens.all + blockIdx.x * kWarps + warp; place < places;
       place += step) {
    clear_row(row_bytes, tokens + (base + place) * row_bytes, lane);
    if (lane == 0) {
      indices[base + place] = -1;
    }
  }
  if (counts && blockIdx.x == 0 && threadIdx.x == 0) {
    counts[b] = kept_tokens.all;
  }
}

}  // namespace

void launch_gather(const Images& x, const uint8_t* kept, Budget budget, void* tokens,
                   int64_t* indices, int32_t* count, cudaStream_t stream) {
  const dim3 grid(blocks_for(x.tokens, kWarps), static_cast<unsigned>(x.images));
  launch("gather_kernel", gather_kernel, grid, kThreads, stream, x, width_of(x.dtype), kept, budget,
         static_cast<char*>(tokens), indices, count);
}

}  // namespace svdprune::cuda
