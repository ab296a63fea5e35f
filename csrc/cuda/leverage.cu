// Stage 3 of 5, leverage: the rank from the eigenvalues' running sum, then squared row norms.

#include "device.cuh"

#include <limits>

namespace svdprune::cuda {

namespace {

constexpr int kTokens = 32;  // a block's tokens, one a thread along x
constexpr int kColumns = 8;  // columns in flight, one a thread along y
constexpr int kThreads = kTokens * kColumns;

// The smallest number of leading eigenvalues (ascending in w [n]) that hold `variance` of their
// total, by all threads of the block. Each thread sums one run of them, thread 0 the largest; sums
// in float64.
template <class T>
__device__ int64_t rank_for_variance(const T* w, int64_t n, double variance, int thread) {
  __shared__ double runs[kThreads];
  __shared__ unsigned long long found;
  const int64_t run = (n + kThreads - 1) / kThreads;
  const int64_t begin = min(n, thread * run), end = min(n, begin + run);
  double own = 0;
  for (int64_t c = begin; c < end; ++c) {
    own += max(static_cast<double>(w[n - 1 - c]), 0.0);
  }
  runs[thread] = own;
  if (thread == 0) {
    found = n;
  }
  __syncthreads();
  double before = 0, total = 0;
  for (int t = 0; t < kThreads; ++t) {
    before = t == thread ? total : before;
    total += runs[t];
  }
  double sum = before;
  for (int64_t c = begin; c < end; ++c) {
    sum += max(static_cast<double>(w[n - 1 - c]), 0.0);
    if (sum >= variance * total) {
      atomicMin(&found, static_cast<unsigned long long>(c + 1));
      break;
    }
  }
  __syncthreads();
  return static_cast<int64_t>(found);
}

// How many of the `rank` leading eigenvalues stand out from the Gram matrix's rounding. Below that,
// a direction has no left singular vector to speak of on the features' side, and among packed
// images may lie in the zeros behind a shorter one's end.
template <class T>
__device__ int64_t standing_out(const T* w, int64_t n, int64_t rank) {
  constexpr T kRounding = 64 * std::numeric_limits<T>::epsilon();
  int64_t low = 0, high = rank;  // w descends from w[n - 1]
  while (low < high) {
    const int64_t middle = (low + high + 1) / 2;
    if (w[n - middle] > kRounding * w[n - 1]) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return low;
}

// A block: 32 tokens of one image, 8 threads each, which take every eighth column. Shared
// memory: 4.2 KB. Reads of the basis are coalesced along the tokens. Sums in float64, in a fixed
// order.
template <class T>
__global__ void leverage_kernel(Images x, bool tokens_side, int64_t n, const T* basis,
                                const T* eigenvalues, const double* largest, const int* info,
                                RankRule rule, T* scores, int32_t* ranks) {
  __shared__ double partial[kColumns][kTokens];
  const int64_t b = blockIdx.y;
  const int64_t token = static_cast<int64_t>(blockIdx.x) * kTokens + threadIdx.x;
  const int64_t length = length_of(x, b);
  const T* w = eigenvalues + b * n;

  const bool failed = !isfinite(largest[b]) || info[b] != 0;
  int64_t rank = 0;
  if (!failed && largest[b] > 0) {
    const int thread = threadIdx.y * kTokens + threadIdx.x;
    rank = rule.rank > 0 ? min(rule.rank, min(length, x.features))
                         : rank_for_variance(w, n, rule.variance, thread);
    if (!tokens_side || x.cu_seqlens) {
      rank = standing_out(w, n, rank);
    }
  }

  double sum = 0;
  if (token < length) {
    const T* row = basis + b * x.tokens * n + token;
    for (int64_t c = threadIdx.y; c < rank; c += kColumns) {
      const int64_t column = n - 1 - c;
      const double value = row[column * x.tokens];
      sum += tokens_side ? value * value : value * value / static_cast<double>(w[column]);
    }
  }
  partial[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y == 0 && token < length) {
    for (int y = 1; y < kColumns; ++y) {
      sum += partial[y][threadIdx.x];
    }
    const T score = static_cast<T>(min(max(sum, 0.0), 1.0));
    scores[first_token(x, b) + token] = failed ? std::numeric_limits<T>::quiet_NaN() : score;
  }
  if (blockIdx.x == 0 && threadIdx.x == 0 && threadIdx.y == 0) {
    ranks[b] = failed ? -1 : static_cast<int32_t>(rank);
  }
}

}  // namespace

template <class T>
void launch_leverage(const Images& x, bool tokens_side, int64_t n, const T* basis,
                     const T* eigenvalues, const double* largest, const int* info, RankRule rule,
                     T* scores, int32_t* rank, cudaStream_t stream) {
  const dim3 grid(blocks_for(x.tokens, kTokens), static_cast<unsigned>(x.images));
  launch("leverage_kernel", leverage_kernel<T>, grid, dim3(kTokens, kColumns), stream, x,
         tokens_side, n, basis, eigenvalues, largest, info, rule, scores, rank);
}

template void launch_leverage(const Images&, bool, int64_t, const float*, const float*,
                              const double*, const int*, RankRule, float*, int32_t*, cudaStream_t);
template void launch_leverage(const Images&, bool, int64_t, const double*, const double*,
                              const double*, const int*, RankRule, double*, int32_t*, cudaStream_t);

}  // namespace svdprune::cuda
