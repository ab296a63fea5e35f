// Stage 3 on the features' side for solver "tridiag": leverage from right singular vectors. U_r = X V_r L_r^-1/2, of which
// the squared row norms are summed up as the product X V_r is formed.

#include "warp.cuh"

#include <limits>

namespace svdprune::cuda {

namespace {

constexpr int kTile = 32;   // a block's tokens, and vectors at a time
constexpr int kDepth = 16;  // features of a panel
constexpr int kWarps = 8;   // that share the features, each with panels of its own
constexpr int kThreads = 32 * kWarps;
// Between rows of a panel: eight neighbouring ones have 16 bytes in different banks.
constexpr int kStride = kDepth + 4;
constexpr int kFetched = kTile * kDepth / 32;  // numbers of a panel that a lane brings
constexpr int kTokens = 8, kVectors = 4;  // a lane's: every fourth token with every eighth vector

// A warp's panels of X and of V^T, and afterwards its sums of the tile.
union Scratch {
  struct {
    float tokens[kTile * kStride], vectors[kTile * kStride];
  } panels;
  float sums[kTile][kTile + 1];
};

// From rows of `features` numbers, `count` of them that exist: those of the panel that begins at a feature; zeros elsewhere.
template <class S>
__device__ __forceinline__ void fetch(const S* rows, int count, int feature, int features,
                                      float (&number)[kFetched]) {
  const int lane = threadIdx.x % 32, column = feature + lane % kDepth;
#pragma unroll
  for (int k = 0; k < kFetched; ++k) {
    const int row = lane / kDepth + 32 / kDepth * k;
    const bool exists = row < count && column < features;
    number[k] = exists ? static_cast<float>(rows[row * features + column]) : 0;
  }
}

__device__ __forceinline__ void put(const float (&number)[kFetched], float* panel) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int k = 0; k < kFetched; ++k) {
    panel[(lane / kDepth + 32 / kDepth * k) * kStride + lane % kDepth] = number[k];
  }
}

// Adds the products of a panel's rows, tokens with vectors, in float32.
__device__ __forceinline__ void add_products(const Scratch& scratch,
                                             float (&sums)[kTokens][kVectors]) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int feature = 0; feature < kDepth; feature += 4) {
    float4 token[kTokens], vector[kVectors];
#pragma unroll
    for (int i = 0; i < kTokens; ++i) {
      token[i] = *reinterpret_cast<const float4*>(scratch.panels.tokens +
                                                  (lane / 8 + 4 * i) * kStride + feature);
    }
#pragma unroll
    for (int j = 0; j < kVectors; ++j) {
      vector[j] = *reinterpret_cast<const float4*>(scratch.panels.vectors +
                                                   (lane % 8 + 8 * j) * kStride + feature);
    }
#pragma unroll
    for (int i = 0; i < kTokens; ++i) {
#pragma unroll
      for (int j = 0; j < kVectors; ++j) {
        float sum = fmaf(token[i].x, vector[j].x, sums[i][j]);
        sum = fmaf(token[i].y, vector[j].y, sum);
        sum = fmaf(token[i].z, vector[j].z, sum);
        sums[i][j] = fmaf(token[i].w, vector[j].w, sum);
      }
    }
  }
}

// A warp's share of the tile tokens x vectors, of every eighth panel, into its scratch. The next panel is on its way while
// one is worked on.
template <class S>
__device__ __forceinline__ void sum_up(const S* tokens, int token_count, const float* vectors,
                                       int vector_count, int features, Scratch& scratch) {
  const int lane = threadIdx.x % 32, first = threadIdx.x / 32 * kDepth;
  float sums[kTokens][kVectors] = {}, token[kFetched], vector[kFetched];
  fetch(tokens, token_count, first, features, token);
  fetch(vectors, vector_count, first, features, vector);
#pragma unroll 1
  for (int feature = first; feature < features; feature += kDepth * kWarps) {
    __syncwarp();
    put(token, scratch.panels.tokens);
    put(vector, scratch.panels.vectors);
    __syncwarp();
    fetch(tokens, token_count, feature + kDepth * kWarps, features, token);
    fetch(vectors, vector_count, feature + kDepth * kWarps, features, vector);
    add_products(scratch, sums);
  }
  __syncwarp();
#pragma unroll
  for (int i = 0; i < kTokens; ++i) {
#pragma unroll
    for (int j = 0; j < kVectors; ++j) {
      scratch.sums[lane / 8 + 4 * i][lane % 8 + 8 * j] = sums[i][j];
    }
  }
}

// A block: 32 tokens of one image, and 32 vectors after the other. The warps' sums and the squares are added in float64,
// in a fixed order: eight threads a token.
template <class S>
__global__ __launch_bounds__(kThreads, 1) void leverage_of_vectors_kernel(Images x, const S* packed,
                                                                          const float* vectors,
                                                                          const double* eigenvalues,
                                                                          const int32_t* ranks,
                                                                          float* scores) {
  alignas(16) __shared__ Scratch scratch[kWarps];
  const int64_t b = blockIdx.y, first = static_cast<int64_t>(blockIdx.x) * kTile;
  const int64_t length = length_of(x, b);
  const int features = static_cast<int>(x.features), rank = ranks[b];
  const int count = static_cast<int>(clamped(length - first, 0, kTile));
  const int own = threadIdx.x / 8, share = threadIdx.x % 8;
  double score = 0;
  for (int vector = 0; vector < rank; vector += kTile) {
    const int vector_count = min(rank - vector, kTile);
    sum_up(packed + (b * x.tokens + first) * features, count,
           vectors + (b * features + vector) * features, vector_count, features,
           scratch[threadIdx.x / 32]);
    __syncthreads();
#pragma unroll 1
    for (int j = share; j < vector_count; j += 8) {
      double sum = 0;
      for (int warp = 0; warp < kWarps; ++warp) {
        sum += scratch[warp].sums[own][j];
      }
      score += sum * sum / eigenvalues[b * features + vector + j];
    }
    __syncthreads();
  }
  for (int apart = 4; apart > 0; apart /= 2) {
    score += __shfl_xor_sync(kAllLanes, score, apart);
  }
  if (share == 0 && own < count) {
    scores[first_token(x, b) + first + own] =
        rank < 0 ? std::numeric_limits<float>::quiet_NaN() : static_cast<float>(min(score, 1.0));
  }
}

}  // namespace

void launch_leverage_of_vectors(const Images& x, const void* packed, Dtype dtype,
                                const float* vectors, const double* eigenvalues,
                                const int32_t* rank, float* scores, cudaStream_t stream) {
  const dim3 grid(blocks_for(x.tokens, kTile), static_cast<unsigned>(x.images));
  const auto run = [&](auto type) {
    using S = decltype(type);
    launch("leverage_of_vectors_kernel", leverage_of_vectors_kernel<S>, grid, dim3(kThreads),
           stream, x, static_cast<const S*>(packed), vectors, eigenvalues, rank, scores);
  };
  switch (dtype) {
    case Dtype::kFloat16:
      return run(__half{});
    case Dtype::kBFloat16:
      return run(__nv_bfloat16{});
    default:
      return run(float{});
  }
}

}  // namespace svdprune::cuda
