// Rule "pivoted" of stage 4, select: greedy choice of rows with deflation, on the Gram matrix alone.
//
// The rule is Note [pivoted rows] of ../cpu/pivot.cpp, and what counts as nothing and as equal its Note [what is
// left of a token].

#include "cluster.cuh"
#include "pivot.h"

#include <algorithm>
#include <limits>

namespace svdprune::cuda {

namespace {

constexpr int kMostWarps = 24;  // with 80 registers a thread
constexpr int kPicked = -1;     // in place of what is left of a token

// Over the threads of a block. The largest of a number that is not negative, and a sum.
struct Extent {
  double most, sum;
};

__device__ Extent merged(Extent a, Extent b) {
  return {fmax(a.most, b.most), a.sum + b.sum};
}

__device__ Extent warp_extent(Extent own) {
  for (int lanes = 16; lanes > 0; lanes /= 2) {
    own =
        merged(own, {__shfl_xor_sync(~0u, own.most, lanes), __shfl_xor_sync(~0u, own.sum, lanes)});
  }
  return own;
}

// What the warps of a block tell each other. The two below have a barrier each, before what was told is read: a
// call of the other one, or a barrier, lies between two calls of one.
struct Told {
  Extent extents[kMostWarps];
  int lowest[kMostWarps];
};
static_assert(sizeof(Told) % sizeof(double2) == 0);  // which follows it

// In a fixed order, which the number of warps does not change.
__device__ Extent block_extent(Told& told, Extent own) {
  const unsigned lane = threadIdx.x % 32, warps = blockDim.x / 32;
  own = warp_extent(own);
  if (lane == 0) {
    told.extents[threadIdx.x / 32] = own;
  }
  __syncthreads();
  return warp_extent(lane < warps ? told.extents[lane] : Extent{0, 0});
}

// The lowest of the threads' numbers.
__device__ int block_lowest(Told& told, int own) {
  const unsigned lane = threadIdx.x % 32, warps = blockDim.x / 32;
  own = __reduce_min_sync(~0u, own);
  if (lane == 0) {
    told.lowest[threadIdx.x / 32] = own;
  }
  __syncthreads();
  return __reduce_min_sync(~0u, lane < warps ? told.lowest[lane] : own);
}

// One image as its block sees it. Of each token its thread alone keeps what is left. Rows w are held on the chip as
// far as there is room, those of two picks next to each other, so that one load gets both: this traffic is what most
// of a pick waits for.
template <class T>
struct Residual {
  int n;           // tokens
  int64_t stride;  // between rows of gram and of far
  const T* gram;   // [n, n]
  double* left;    // [n]: of each token, 0 where it is explained, kPicked where it is picked
  double* least;   // [n]: no more than that counts as nothing
  int held;        // picks whose w is in `near`, the first ones; even
  double2* near;   // [held / 2, n]: w of two picks; shared memory
  double* far;     // [picks, n]: w of each pick from `held` on
  Told* told;
};

template <class T>
__device__ Residual<T> residual_of(const Images& x, const Pivot<T>& a, int64_t b) {
  Residual<T> r;
  r.n = static_cast<int>(length_of(x, b));
  r.stride = x.tokens;
  r.gram = a.gram + b * x.tokens * x.tokens;
  r.told = reinterpret_cast<Told*>(dynamic_shared());
  auto* const chip = reinterpret_cast<double*>(r.told + 1);
  const int64_t room = a.on_chip - 2 * r.n;
  r.left = room >= 0 ? chip : a.left + 2 * b * x.tokens;
  r.least = r.left + r.n;
  r.held = room > 0 ? 2 * (static_cast<int>(room) / max(2 * r.n, 1)) : 0;
  r.near = reinterpret_cast<double2*>(chip + 2 * r.n);
  r.far = a.rows + first_kept(a.budget, b) * x.tokens;
  return r;
}

// Sets what is left at first; the sum is the energy.
template <class T>
__device__ Extent start(const Residual<T>& r) {
  constexpr double kLeft = 128.0 * std::numeric_limits<T>::epsilon();
  Extent own{0, 0};
  for (int i = threadIdx.x; i < r.n; i += blockDim.x) {
    const double square = r.gram[i * r.stride + i];
    r.left[i] = square;
    r.least[i] = kLeft * square;
    own = merged(own, {square, square});
  }
  return block_extent(*r.told, own);
}

// The token to pick: of those of which `most` is left the first; if nothing is left of any, the first that is
// not picked.
template <class T>
__device__ int next_pick(const Residual<T>& r, double most) {
  constexpr double kTie = 32.0 * std::numeric_limits<T>::epsilon();
  const double equal = most * (1 - kTie);
  int own = r.n;
  for (int i = threadIdx.x; i < r.n && own == r.n; i += blockDim.x) {
    own = r.left[i] >= equal ? i : own;
  }
  return block_lowest(*r.told, own);
}

// The sum over the picks before of w[p] w[i].
template <class T>
__device__ double shared_with(const Residual<T>& r, int p, int i, int picks) {
  double sum = 0;
  const int near = min(picks, r.held), pairs = near / 2;
#pragma unroll 4
  for (int l = 0; l < pairs; ++l) {
    const double2 picked = r.near[l * r.n + p], own = r.near[l * r.n + i];
    sum += picked.x * own.x;
    sum += picked.y * own.y;
  }
  if (near % 2 != 0) {
    sum += r.near[pairs * r.n + p].x * r.near[pairs * r.n + i].x;
  }
#pragma unroll 4
  for (int l = r.held; l < picks; ++l) {
    sum += r.far[l * r.stride + p] * r.far[l * r.stride + i];
  }
  return sum;
}

// Keeps w of token i for the picks to come.
template <class T>
__device__ void keep(const Residual<T>& r, int i, int picks, double w) {
  if (picks >= r.held) {
    r.far[picks * r.stride + i] = w;
  } else {
    double2& pair = r.near[picks / 2 * r.n + i];
    (picks % 2 == 0 ? pair.x : pair.y) = w;
  }
}

// Takes the direction of token p out of all others. `picks` were made before. The sum is the energy that p adds.
template <class T>
__device__ Extent take(const Residual<T>& r, int p, int picks) {
  const double scale = rsqrt(r.left[p]);
  bool mine = false;
  Extent own{0, 0};
  for (int i = threadIdx.x; i < r.n; i += blockDim.x) {
    const double product = r.gram[p * r.stride + i];  // under way during the sum
    const double w = (product - shared_with(r, p, i, picks)) * scale;
    keep(r, i, picks, w);
    double left = 0;
    if (i == p) {
      mine = true;
    } else if ((left = r.left[i]) > 0) {
      left -= w * w;
      left = left > r.least[i] ? left : 0;
      r.left[i] = left;
    }
    own = merged(own, {left, w * w});
  }
  const Extent found = block_extent(*r.told, own);
  if (mine) {
    r.left[p] = kPicked;  // which all have read
  }
  return found;
}

// A block: one image; 2 barriers a pick. A thread: one token, or every 768th of them. Rows of gram and of w are read
// coalesced along the tokens. Shared memory: Told and the `on_chip` numbers, dynamic. Sums in float64, in a fixed
// order that depends on the image alone.
template <class T>
__global__ __launch_bounds__(32 * kMostWarps) void pivot_kernel(Images x, Pivot<T> a) {
  const int64_t b = blockIdx.x;
  const int64_t first = first_token(x, b);
  const Residual<T> r = residual_of(x, a, b);
  const bool failed = !isfinite(a.largest[b]);
  for (int i = threadIdx.x; i < r.n; i += blockDim.x) {
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
      const Extent found = take(r, p, picks++);
      const double share = found.sum / whole.sum;
      most = found.most;
      covered += share;
      if (threadIdx.x == 0) {
        a.scores[first + p] = static_cast<T>(share);
      }
    } else {
      if (p % blockDim.x == threadIdx.x) {
        r.left[p] = kPicked;
      }
      __syncthreads();  // next_pick follows on next_pick
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

int64_t pivot_on_chip(const Images& x, const Budget& budget) {
  int device = 0, limit = 0;
  if (cudaGetDevice(&device) != cudaSuccess ||
      cudaDeviceGetAttribute(&limit, cudaDevAttrMaxSharedMemoryPerBlockOptin, device) !=
          cudaSuccess) {
    return 0;
  }
  const int64_t places = std::min(budget.cu_keep ? budget.total_keep : budget.keep, x.tokens);
  const int64_t room = (limit - static_cast<int64_t>(sizeof(Told))) / sizeof(double);
  return std::min(room, (2 + (places + 1) / 2 * 2) * x.tokens);
}

template <class T>
void launch_pivot(const Images& x, const Pivot<T>& arguments, cudaStream_t stream) {
  const auto warps = std::clamp<int64_t>((x.tokens + 31) / 32, 1, kMostWarps);
  launch_clusters("pivot_kernel", pivot_kernel<T>, dim3(static_cast<unsigned>(x.images)),
                  dim3(static_cast<unsigned>(32 * warps)),
                  {1, sizeof(Told) + arguments.on_chip * sizeof(double)}, stream, x, arguments);
}

template void launch_pivot(const Images&, const Pivot<float>&, cudaStream_t);
template void launch_pivot(const Images&, const Pivot<double>&, cudaStream_t);

}  // namespace svdprune::cuda
