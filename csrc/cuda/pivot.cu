// Rule "pivoted" of stage 4, select: greedy choice of rows with deflation, on the Gram matrix alone.
//
// The rule is Note [pivoted rows] of ../cpu/pivot.cpp, and what counts as nothing and as equal its Note [what is
// left of a token].

#include "device.cuh"
#include "pivot.h"

#include <limits>

namespace svdprune::cuda {

namespace {

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / 32;
constexpr int kPicked = -1;  // in place of what is left of a token

// Over the threads of a block, in a fixed order. The largest of a number that is not negative, and a sum.
struct Extent {
  double most, sum;
};

__device__ Extent merged(Extent a, Extent b) {
  return {fmax(a.most, b.most), a.sum + b.sum};
}

__device__ Extent block_extent(Extent own) {
  __shared__ Extent partial[kWarps];
  for (int lanes = 16; lanes > 0; lanes /= 2) {
    own =
        merged(own, {__shfl_xor_sync(~0u, own.most, lanes), __shfl_xor_sync(~0u, own.sum, lanes)});
  }
  __syncthreads();  // the last call's readers are done
  if (threadIdx.x % 32 == 0) {
    partial[threadIdx.x / 32] = own;
  }
  __syncthreads();
  Extent all = partial[0];
  for (int warp = 1; warp < kWarps; ++warp) {
    all = merged(all, partial[warp]);
  }
  return all;
}

// The lowest of the threads' numbers.
__device__ int block_lowest(int own) {
  __shared__ int partial[kWarps];
  for (int lanes = 16; lanes > 0; lanes /= 2) {
    own = min(own, __shfl_xor_sync(~0u, own, lanes));
  }
  __syncthreads();
  if (threadIdx.x % 32 == 0) {
    partial[threadIdx.x / 32] = own;
  }
  __syncthreads();
  int all = partial[0];
  for (int warp = 1; warp < kWarps; ++warp) {
    all = min(all, partial[warp]);
  }
  return all;
}

// One image as its block sees it.
template <class T>
struct Residual {
  int n;           // tokens
  int64_t stride;  // between rows of gram and of rows
  const T* gram;   // [n, n]
  double* left;    // [n]: of each token, 0 where it is explained, kPicked where it is picked
  double* rows;    // [picks, n]: w of each pick
};

// Sets what is left at first; the sum is the energy.
template <class T>
__device__ Extent start(const Residual<T>& r) {
  Extent own{0, 0};
  for (int i = threadIdx.x; i < r.n; i += kThreads) {
    const double square = r.gram[i * r.stride + i];
    r.left[i] = square;
    own = merged(own, {square, square});
  }
  return block_extent(own);
}

// The token to pick: of those of which `most` is left the first; if nothing is left of any, the first that is
// not picked.
template <class T>
__device__ int next_pick(const Residual<T>& r, double most) {
  constexpr double kTie = 32.0 * std::numeric_limits<T>::epsilon();
  const double least = most * (1 - kTie);
  int own = r.n;
  for (int i = threadIdx.x; i < r.n && own == r.n; i += kThreads) {
    own = r.left[i] >= least ? i : own;
  }
  return block_lowest(own);
}

// Takes the direction of token p, of which `square` is left, out of all others. `picks` were made before. The sum
// is the energy that p adds.
template <class T>
__device__ Extent take(const Residual<T>& r, int p, double square, int picks) {
  constexpr double kLeft = 128.0 * std::numeric_limits<T>::epsilon();
  const double scale = 1 / sqrt(square);
  double* const row = r.rows + picks * r.stride;
  Extent own{0, 0};
  for (int i = threadIdx.x; i < r.n; i += kThreads) {
    double w = r.gram[p * r.stride + i];
#pragma unroll 4
    for (int l = 0; l < picks; ++l) {
      w -= r.rows[l * r.stride + p] * r.rows[l * r.stride + i];
    }
    w *= scale;
    row[i] = w;
    double left = r.left[i];
    if (i == p) {
      left = kPicked;
    } else if (left > 0) {
      left -= w * w;
      left = left > kLeft * r.gram[i * r.stride + i] ? left : 0;
    }
    r.left[i] = left;
    own = merged(own, {left, w * w});
  }
  return block_extent(own);
}

// A block: one image. A thread: every 512th token, of which it alone keeps what is left; w of the picks are read by
// all, coalesced along the tokens. 4 barriers a pick. Shared memory: 320 bytes. Sums in float64, in a fixed order.
template <class T>
__global__ __launch_bounds__(kThreads) void pivot_kernel(Images x, Pivot<T> a) {
  const int64_t b = blockIdx.x;
  const int64_t first = first_token(x, b);
  const Residual<T> r{static_cast<int>(length_of(x, b)), x.tokens, a.gram + b * x.tokens * x.tokens,
                      a.left + b * x.tokens, a.rows + first_kept(a.budget, b) * x.tokens};
  const bool failed = !isfinite(a.largest[b]);
  for (int i = threadIdx.x; i < r.n; i += kThreads) {
    a.scores[first + i] = failed ? std::numeric_limits<T>::quiet_NaN() : T(0);
    a.kept[first + i] = 0;
  }
  const int places = static_cast<int>(min(places_of(a.budget, b), static_cast<int64_t>(r.n)));
  const double coverage = a.budget.coverage;

  const Extent whole = start(r);
  double most = failed ? 0 : whole.most, covered = 0;
  int picks = 0, count = 0;
  while (count < places && (failed || coverage == 0 || (covered < coverage && most > 0))) {
    const int p = failed ? count : next_pick(r, most);
    if (most > 0) {
      const double square = r.left[p];
      __syncthreads();  // before token p's thread marks it
      const Extent found = take(r, p, square, picks++);
      const double share = found.sum / whole.sum;
      most = found.most;
      covered += share;
      if (threadIdx.x == 0) {
        a.scores[first + p] = static_cast<T>(share);
      }
    } else if (p % kThreads == static_cast<int>(threadIdx.x)) {
      r.left[p] = kPicked;
    }
    if (threadIdx.x == 0) {
      a.kept[first + p] = 1;
    }
    ++count;
  }
  if (threadIdx.x == 0) {
    a.ranks[b] = failed ? -1 : picks;
  }
}

}  // namespace

template <class T>
void launch_pivot(const Images& x, const Pivot<T>& arguments, cudaStream_t stream) {
  launch("pivot_kernel", pivot_kernel<T>, dim3(static_cast<unsigned>(x.images)), dim3(kThreads),
         stream, x, arguments);
}

template void launch_pivot(const Images&, const Pivot<float>&, cudaStream_t);
template void launch_pivot(const Images&, const Pivot<double>&, cudaStream_t);

}  // namespace svdprune::cuda
