// What is left of an image's tokens while pivot_kernel picks among them.
#pragma once

#include "cluster.cuh"
#include "pivot.h"
#include "warp.cuh"

#include <limits>

namespace svdprune::cuda::pivoting {

constexpr int kTokens = 3;          // that a thread works on at a time: their sums share the loads
constexpr int kRun = 32 * kTokens;  // that a warp does

__device__ inline double larger(double a, double b) {
  return a > b ? a : b;
}

// Maximum over the warp; none is negative, so that they have the order of their bits.
__device__ inline double warp_max(double own) {
  const auto bits = static_cast<uint64_t>(__double_as_longlong(own));
  const auto high = static_cast<unsigned>(bits >> 32);
  const unsigned most = __reduce_max_sync(kAllLanes, high);
  const unsigned low =
      __reduce_max_sync(kAllLanes, high == most ? static_cast<unsigned>(bits) : 0u);
  return __longlong_as_double(static_cast<long long>(uint64_t{most} << 32 | low));
}

// One image as its block sees it. What is left of the tokens has two copies that take turns: a pick reads one and
// writes the other, and so does with one barrier. Rows w are held on the chip as far as there is room, those of two
// picks next to each other, so that one load gets both.
template <class T>
struct Residual {
  int n;           // tokens
  int stride;      // between rows of gram and of far
  int span;        // tokens of a warp, next to each other: so many runs
  int begin, end;  // those of this warp
  const T* gram;   // [n, n]
  double* left;    // [2, n]: of each token, 0 where it is explained or picked
  double* least;   // [n]: no more than that counts as nothing
  double* most;    // [2, kPivotWarps]: the most that is left of a token of each warp; shared memory
  int held;        // picks whose w is in `near`, the first ones; even
  double2* near;   // [held / 2, n]: w of two picks; shared memory
  double* far;     // [picks, n]: w of each pick from `held` on
};

// kOnChip: left and least are in shared memory.
template <bool kOnChip, class T>
__device__ Residual<T> residual_of(const Images& x, const Pivot<T>& a, int64_t b) {
  const int warp = threadIdx.x / 32, warps = blockDim.x / 32;
  Residual<T> r;
  r.n = static_cast<int>(length_of(x, b));
  r.stride = static_cast<int>(x.tokens);
  r.span = (r.n + kRun * warps - 1) / (kRun * warps) * kRun;
  r.begin = warp * r.span;
  r.end = min(r.begin + r.span, r.n);
  r.gram = a.gram + b * x.tokens * x.tokens;
  r.most = reinterpret_cast<double*>(dynamic_shared());
  double* const chip = r.most + 2 * kPivotWarps;
  const int64_t room = a.on_chip - pivot_numbers(r.n);
  r.left = kOnChip ? chip : a.left + pivot_numbers(x.tokens) * b;
  r.least = r.left + 2 * r.n;
  r.held = kOnChip ? 2 * (static_cast<int>(room) / max(2 * r.n, 1)) : 0;
  r.near = reinterpret_cast<double2*>(chip + pivot_numbers(r.n));
  r.far = a.rows + first_kept(a.budget, b) * x.tokens;
  return r;
}

// A thread's tokens of the run that starts at `begin`. Behind the image's end it is the last one, again and again:
// then several threads write the same.
struct Tokens {
  int at[kTokens];
};

template <class T>
__device__ Tokens tokens_of(const Residual<T>& r, int begin) {
  Tokens tokens;
#pragma unroll
  for (int s = 0; s < kTokens; ++s) {
    tokens.at[s] = min(begin + 32 * s + static_cast<int>(threadIdx.x % 32), r.n - 1);
  }
  return tokens;
}

// Puts down the most that is left of any token of this warp, in copy `turn`.
template <class T>
__device__ void put_most(const Residual<T>& r, int turn, double own) {
  const double most = warp_max(own);
  if (threadIdx.x % 32 == 0) {
    r.most[turn * kPivotWarps + threadIdx.x / 32] = most;
  }
}

template <class T>
__device__ void start(const Residual<T>& r) {
  constexpr double kLeft = 128.0 * std::numeric_limits<T>::epsilon();
  double most = 0;
  for (int begin = r.begin; begin < r.end; begin += kRun) {
    const Tokens tokens = tokens_of(r, begin);
#pragma unroll
    for (const int i : tokens.at) {
      const auto square = static_cast<double>(r.gram[i * r.stride + i]);
      r.left[i] = square;
      r.least[i] = kLeft * square;
      most = larger(most, square);
    }
  }
  put_most(r, 0, most);
}

// The token to pick: of those of which most is left the first; -1 if nothing is left of any. Each warp looks for it
// on its own. The comparisons find one whatever the numbers are, NaN too.
template <class T>
__device__ int choose(const Residual<T>& r, int turn) {
  constexpr double kTie = 32.0 * std::numeric_limits<T>::epsilon();
  constexpr unsigned kNone = ~0u;
  const int lane = threadIdx.x % 32, warps = blockDim.x / 32;
  const double own = lane < warps ? r.most[turn * kPivotWarps + lane] : 0;
  const double most = warp_max(own), equal = most * (1 - kTie);
  const int warp = __ffs(static_cast<int>(__ballot_sync(kAllLanes, !(own < equal)))) - 1;
  const double* const left = r.left + turn * r.n;
  for (int begin = warp * r.span;; begin += kRun) {
    const Tokens tokens = tokens_of(r, begin);
    unsigned first = kNone;
#pragma unroll
    for (const int i : tokens.at) {
      first = min(first, left[i] < equal ? kNone : static_cast<unsigned>(i));
    }
    first = __reduce_min_sync(kAllLanes, first);
    if (first != kNone) {
      return most > 0 ? static_cast<int>(first) : -1;
    }
  }
}

// Puts down w of a pick.
template <class T>
__device__ void put_w(const Residual<T>& r, const Tokens& tokens, int pick, const double* w) {
  if (pick < r.held) {
    double* const near = reinterpret_cast<double*>(r.near + pick / 2 * r.n) + pick % 2;
#pragma unroll
    for (int s = 0; s < kTokens; ++s) {
      near[2 * tokens.at[s]] = w[s];
    }
  } else {
#pragma unroll
    for (int s = 0; s < kTokens; ++s) {
      r.far[pick * r.stride + tokens.at[s]] = w[s];
    }
  }
}

// A lane's share of ||w||^2 of a pick, which is the energy that it adds. Nothing else is read: other warps may be at the
// next pick already.
template <class T>
__device__ double own_energy(const Residual<T>& r, int pick) {
  const bool near = pick < r.held;
  const double* const w = near ? reinterpret_cast<double*>(r.near + pick / 2 * r.n) + pick % 2
                               : r.far + pick * r.stride;
  const int apart = near ? 2 : 1;
  double sum = 0;
#pragma unroll 6  // for the reads to be under way together
  for (int i = threadIdx.x % 32; i < r.n; i += 32) {
    sum += w[i * apart] * w[i * apart];
  }
  return sum;
}

// After the last pick: the same of an even pick and of the next one, which counts only if it was made.
template <class T>
__device__ double2 own_energies(const Residual<T>& r, int pick, int picks) {
  const int lane = threadIdx.x % 32;
  double2 sum{0, 0};
  if (pick < r.held) {
    const double2* const pair = r.near + pick / 2 * r.n;
#pragma unroll 6  // for the reads to be under way together
    for (int i = lane; i < r.n; i += 32) {
      const double2 w = pair[i];
      sum.x += w.x * w.x;
      sum.y += w.y * w.y;
    }
    return sum;
  }
  const double* const even = r.far + pick * r.stride;
  const double* const odd = even + (pick + 1 < picks ? r.stride : 0);
#pragma unroll 1
  for (int i = lane; i < r.n; i += 32) {
    sum.x += even[i] * even[i];
    sum.y += odd[i] * odd[i];
  }
  return sum;
}

}  // namespace svdprune::cuda::pivoting
