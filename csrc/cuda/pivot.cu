// Rule "pivoted" of stage 4, select: greedy choice of rows with deflation, on the Gram matrix alone.
//
// The rule is Note [pivoted rows] of ../cpu/pivot.cpp, and what counts as nothing and as equal its Note [what is
// left of a token].

#include "cluster.cuh"
#include "pivot.h"
#include "warp.cuh"

#include <algorithm>
#include <limits>

namespace svdprune::cuda {

namespace {

constexpr int kMostWarps = 24;  // with 80 registers a thread
constexpr int kPicked = -1;     // in place of what is left of a token

// Numbers in the order of what is left: 0 for a picked token, then 1 for one that is explained.
__device__ uint64_t key_of(double left) {
  return left < 0 ? 0 : static_cast<uint64_t>(__double_as_longlong(left)) + 1;
}

__device__ double left_of(uint64_t key) {
  return key == 0 ? kPicked : __longlong_as_double(static_cast<long long>(key - 1));
}

__device__ uint64_t warp_max(uint64_t own) {
  const auto high = static_cast<unsigned>(own >> 32);
  const unsigned most = __reduce_max_sync(kAllLanes, high);
  const unsigned low = __reduce_max_sync(kAllLanes, high == most ? static_cast<unsigned>(own) : 0u);
  return uint64_t{most} << 32 | low;
}

// One image as its block sees it. What is left of the tokens has two copies that take turns: a pick reads one and
// writes the other, and so does with one barrier. Rows w are held on the chip as far as there is room, those of two
// picks next to each other, so that one load gets both: this traffic is what most of a pick waits for.
template <class T>
struct Residual {
  int n, chunks;   // tokens, and 32 of them
  int stride;      // between rows of gram and of far
  const T* gram;   // [n, n]
  double* left;    // [2, n]: of each token, 0 where it is explained, kPicked where it is picked
  double* least;   // [n]: no more than that counts as nothing
  uint64_t* most;  // [2, chunks]: key_of what is left of a chunk's token that has most
  int held;        // picks whose w is in `near`, the first ones; even
  double2* near;   // [held / 2, n]: w of two picks; shared memory
  double* far;     // [picks, n]: w of each pick from `held` on
};

template <class T>
__device__ Residual<T> residual_of(const Images& x, const Pivot<T>& a, int64_t b) {
  Residual<T> r;
  r.n = static_cast<int>(length_of(x, b));
  r.chunks = static_cast<int>(pivot_chunks(r.n));
  r.stride = static_cast<int>(x.tokens);
  r.gram = a.gram + b * x.tokens * x.tokens;
  auto* const chip = reinterpret_cast<double*>(dynamic_shared());
  const int64_t room = a.on_chip - pivot_numbers(r.n);
  r.left = room >= 0 ? chip : a.left + pivot_numbers(x.tokens) * b;
  r.least = r.left + 2 * r.n;
  r.most = reinterpret_cast<uint64_t*>(r.least + r.n);
  r.held = room > 0 ? 2 * (static_cast<int>(room) / max(2 * r.n, 1)) : 0;
  r.near = reinterpret_cast<double2*>(chip + pivot_numbers(r.n));
  r.far = a.rows + first_kept(a.budget, b) * x.tokens;
  return r;
}

// Calls f(chunk, token) for this thread's token of each chunk of its warp; the last chunk's may be n or more.
template <class T, class F>
__device__ void for_own_chunks(const Residual<T>& r, F&& f) {
  const int lane = threadIdx.x % 32, warps = blockDim.x / 32;
  for (int chunk = threadIdx.x / 32; chunk < r.chunks; chunk += warps) {
    f(chunk, 32 * chunk + lane);
  }
}

// Puts down what is left of a thread's token, in copy `turn`.
template <class T>
__device__ void put(const Residual<T>& r, int turn, int chunk, int i, double left) {
  if (i < r.n) {
    r.left[turn * r.n + i] = left;
  }
  const uint64_t most = warp_max(i < r.n ? key_of(left) : 0);
  if (i % 32 == 0) {
    r.most[turn * r.chunks + chunk] = most;
  }
}

template <class T>
__device__ void start(const Residual<T>& r) {
  constexpr double kLeft = 128.0 * std::numeric_limits<T>::epsilon();
  for_own_chunks(r, [&](int chunk, int i) {
    const double square = i < r.n ? static_cast<double>(r.gram[i * r.stride + i]) : 0;
    if (i < r.n) {
      r.least[i] = kLeft * square;
    }
    put(r, 0, chunk, i, square);
  });
}

// The sum of f(i) over all tokens, in every lane. In a fixed order.
template <class F>
__device__ double sum_of_tokens(int n, F&& f) {
  double sum = 0;
  for (int i = threadIdx.x % 32; i < n; i += 32) {
    sum += f(i);
  }
  return warp_sum(sum);
}

struct Choice {
  int token;
  double left;  // of it
};

// The token to pick: of those of which most is left the first; if nothing is left of any, the first that is not
// picked. Not all are. Each warp looks for it on its own.
template <class T>
__device__ Choice choose(const Residual<T>& r, int turn) {
  constexpr double kTie = 32.0 * std::numeric_limits<T>::epsilon();
  const int lane = threadIdx.x % 32;
  const uint64_t* const chunk_most = r.most + turn * r.chunks;
  uint64_t own = 0;
  for (int chunk = lane; chunk < r.chunks; chunk += 32) {
    own = max(own, chunk_most[chunk]);
  }
  const uint64_t equal = key_of(left_of(warp_max(own)) * (1 - kTie));
  int begin = 0;
  unsigned chunks = 0;
  for (;; begin += 32) {
    const int chunk = begin + lane;
    chunks = __ballot_sync(kAllLanes, chunk < r.chunks && chunk_most[chunk] >= equal);
    if (chunks != 0) {
      break;
    }
  }
  const int first = 32 * (begin + __ffs(static_cast<int>(chunks)) - 1);
  const int i = first + lane;
  const double left = i < r.n ? r.left[turn * r.n + i] : kPicked;
  const unsigned tokens = __ballot_sync(kAllLanes, key_of(left) >= equal);
  const int chosen = __ffs(static_cast<int>(tokens)) - 1;
  return {first + chosen, __shfl_sync(kAllLanes, left, chosen)};
}

// The sum over the picks before of w[p] w[i], those with even numbers and those with odd ones apart.
template <class T>
__device__ double shared_with(const Residual<T>& r, int p, int i, int picks) {
  double even = 0, odd = 0;
  const int near = min(picks, r.held), pairs = near / 2;
#pragma unroll 4
  for (int l = 0; l < pairs; ++l) {
    const double2 picked = r.near[l * r.n + p], own = r.near[l * r.n + i];
    even += picked.x * own.x;
    odd += picked.y * own.y;
  }
  if (near % 2 != 0) {
    even += r.near[pairs * r.n + p].x * r.near[pairs * r.n + i].x;
  }
#pragma unroll 1
  for (int l = r.held; l < picks; ++l) {
    (l % 2 == 0 ? even : odd) += r.far[l * r.stride + p] * r.far[l * r.stride + i];
  }
  return even + odd;
}

// w of token i and a pick.
template <class T>
__device__ double& w_of(const Residual<T>& r, int pick, int i) {
  if (pick >= r.held) {
    return r.far[pick * r.stride + i];
  }
  double2& pair = r.near[pick / 2 * r.n + i];
  return pick % 2 == 0 ? pair.x : pair.y;
}

// Takes the direction of the chosen token, if it has one of its own left, out of all others. `picks` were made before.
template <class T>
__device__ void take(const Residual<T>& r, const Choice& choice, int picks, int turn) {
  const double scale = choice.left > 0 ? rsqrt(choice.left) : 0;
  for_own_chunks(r, [&](int chunk, int i) {
    double left = i < r.n ? r.left[turn * r.n + i] : 0;
    if (choice.left > 0 && i < r.n) {
      const double product = r.gram[choice.token * r.stride + i];  // under way during the sum
      const double w = (product - shared_with(r, choice.token, i, picks)) * scale;
      w_of(r, picks, i) = w;
      const double rest = left - w * w;
      left = left > 0 ? (rest > r.least[i] ? rest : 0) : left;
    }
    put(r, 1 - turn, chunk, i, i == choice.token ? kPicked : left);
  });
}

// ||w||^2 of a pick, which is the energy that it adds.
template <class T>
__device__ double energy_of(const Residual<T>& r, int pick) {
  return sum_of_tokens(r.n, [&](int i) {
    const double w = w_of(r, pick, i);
    return w * w;
  });
}

// An image that is not finite: its first tokens stay.
template <class T>
__device__ void give_up(const Pivot<T>& a, int64_t b, int64_t first, int n, int places) {
  for (int i = threadIdx.x; i < n; i += blockDim.x) {
    a.scores[first + i] = std::numeric_limits<T>::quiet_NaN();
    a.kept[first + i] = i < places;
  }
  if (threadIdx.x == 0) {
    a.ranks[b] = -1;
  }
}

// A block: one image; one barrier a pick. A thread: a token, or every 768th of them; a warp: chunks of 32. Rows of
// gram and of w are read coalesced along the tokens. Shared memory: the `on_chip` numbers, dynamic. Sums in float64,
// in a fixed order that depends on the image alone.
template <class T>
__global__ __launch_bounds__(32 * kMostWarps) void pivot_kernel(Images x, Pivot<T> a) {
  const int64_t b = blockIdx.x;
  const int64_t first = first_token(x, b);
  const Residual<T> r = residual_of(x, a, b);
  const int places = static_cast<int>(min(places_of(a.budget, b), static_cast<int64_t>(r.n)));
  if (!isfinite(a.largest[b])) {
    give_up(a, b, first, r.n, places);
    return;
  }
  for (int i = threadIdx.x; i < r.n; i += blockDim.x) {
    a.scores[first + i] = 0;
    a.kept[first + i] = 0;
  }
  start(r);
  __syncthreads();
  const double whole = sum_of_tokens(r.n, [&](int i) { return r.left[i]; });
  const double coverage = a.budget.coverage;
  int32_t* const picked = a.picked + first_kept(a.budget, b);
  double covered = 0;
  int picks = 0;
  for (int count = 0; count < places; ++count) {
    const int turn = count % 2;
    const Choice choice = choose(r, turn);
    if (coverage > 0 && (covered >= coverage || choice.left <= 0)) {
      break;
    }
    take(r, choice, picks, turn);
    if (threadIdx.x == 0) {
      a.kept[first + choice.token] = 1;
      picked[count] = choice.token;
    }
    __syncthreads();
    if (choice.left > 0) {
      covered += coverage > 0 ? energy_of(r, picks) / whole : 0;
      ++picks;
    }
  }
  for (int pick = threadIdx.x / 32; pick < picks; pick += blockDim.x / 32) {
    const double share = energy_of(r, pick) / whole;
    if (threadIdx.x % 32 == 0) {
      a.scores[first + picked[pick]] = static_cast<T>(share);
    }
  }
  if (threadIdx.x == 0) {
    a.ranks[b] = picks;
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
  const int64_t room = limit / static_cast<int64_t>(sizeof(double));
  return std::min(room, pivot_numbers(x.tokens) + (places + 1) / 2 * 2 * x.tokens);
}

template <class T>
void launch_pivot(const Images& x, const Pivot<T>& arguments, cudaStream_t stream) {
  const auto warps = std::clamp<int64_t>(pivot_chunks(x.tokens), 1, kMostWarps);
  launch_clusters("pivot_kernel", pivot_kernel<T>, dim3(static_cast<unsigned>(x.images)),
                  dim3(static_cast<unsigned>(32 * warps)), {1, arguments.on_chip * sizeof(double)},
                  stream, x, arguments);
}

template void launch_pivot(const Images&, const Pivot<float>&, cudaStream_t);
template void launch_pivot(const Images&, const Pivot<double>&, cudaStream_t);

}  // namespace svdprune::cuda
