// Stage 5 of 5, gather: the kept tokens' features, bit for bit.

#include "gather.cuh"

namespace svdprune::cuda {

namespace {

constexpr int kTokens = 32;  // a block's tokens
constexpr int kWarps = 8;
constexpr int kThreads = 32 * kWarps;

// A block: 32 tokens of one image. It counts the kept tokens before its own, which gives theirs
// their places; the warps take them in turn. Places left over are shared out among the image's
// blocks.
__global__ void gather_kernel(Images x, int64_t width, const uint8_t* kept, Budget budget,
                              char* tokens, int64_t* indices, int32_t* counts) {
  __shared__ int before, all;
  __shared__ unsigned mask;
  const int64_t b = blockIdx.y;
  const int64_t tile = static_cast<int64_t>(blockIdx.x) * kTokens;
  const int64_t first = first_token(x, b);
  const int64_t length = length_of(x, b);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;

  if (threadIdx.x == 0) {
    before = all = 0;
  }
  __syncthreads();
  int own_before = 0, own_all = 0;
  for (int64_t i = threadIdx.x; i < length; i += kThreads) {
    own_all += kept[first + i];
    own_before += i < tile ? kept[first + i] : 0;
  }
  atomicAdd(&before, own_before);  // of integers: any order gives the same
  atomicAdd(&all, own_all);
  if (warp == 0) {
    const bool stays = tile + lane < length && kept[first + tile + lane];
    const unsigned votes = __ballot_sync(0xffffffffu, stays);
    if (lane == 0) {
      mask = votes;
    }
  }
  __syncthreads();

  const int64_t places = places_of(budget, b);
  const int64_t base = first_kept(budget, b);
  const int64_t row_bytes = x.features * width;
  for (int t = warp; t < kTokens; t += kWarps) {
    const int64_t place = before + __popc(mask & ((1u << t) - 1));
    if (!(mask >> t & 1) || place >= places) {
      continue;
    }
    const int64_t token = tile + t;
    const char* source = static_cast<const char*>(x.data) + token_offset(x, b, token) * width;
    copy_row(source, x.feature_stride, width, x.features, tokens + (base + place) * row_bytes,
             lane);
    if (lane == 0) {
      indices[base + place] = x.cu_seqlens ? first + token : token;
    }
  }
  const int64_t step = static_cast<int64_t>(gridDim.x) * kWarps;
  for (int64_t place = all + blockIdx.x * kWarps + warp; place < places; place += step) {
    clear_row(row_bytes, tokens + (base + place) * row_bytes, lane);
    if (lane == 0) {
      indices[base + place] = -1;
    }
  }
  if (counts && blockIdx.x == 0 && threadIdx.x == 0) {
    counts[b] = all;
  }
}

}  // namespace

void launch_gather(const Images& x, const uint8_t* kept, Budget budget, void* tokens,
                   int64_t* indices, int32_t* count, cudaStream_t stream) {
  const dim3 grid(blocks_for(x.tokens, kTokens), static_cast<unsigned>(x.images));
  launch("gather_kernel", gather_kernel, grid, kThreads, stream, x, width_of(x.dtype), kept, budget,
         static_cast<char*>(tokens), indices, count);
}

}  // namespace svdprune::cuda
