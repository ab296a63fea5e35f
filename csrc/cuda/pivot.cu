// Rule "pivoted" of stage 4, select: greedy choice of rows with deflation, on the Gram matrix alone.
//
// The rule is Note [pivoted rows] of ../cpu/pivot.cpp, and what counts as nothing and as equal its Note [what is
// left of a token].
//
// Note [picks in registers]
// The product with the picks before needs all of their w, each pick: from shared memory that is most of the time. So
// few warps of several tokens a thread share what they read of the chosen token, and a thread keeps its own tokens' w
// of the first picks in registers. There an index must be known when it is compiled: w are put down in shared memory,
// and go into registers in groups, once a group is complete.

#include "pivot_residual.cuh"
#include "tridiag/reciprocal.h"

#include <algorithm>

namespace svdprune::cuda {

namespace {

using namespace pivoting;

constexpr int kGroup = 4;  // picks whose w go into registers together; even
constexpr int kHeld =
    20;  // picks whose w may be there: as many as there is room for with 255 registers a thread

// w of a thread's first run and of the first picks, those with even numbers in x.
struct Held {
  double2 w[kTokens][kHeld / 2];
};

// Groups of picks whose w are in registers, too.
template <class T>
__device__ int groups_of(const Residual<T>& r, int picks) {
  return min(min(picks, r.held), kHeld) / kGroup;
}

// Takes the last group into registers, if so many picks complete one.
template <class T>
__device__ void hold(const Residual<T>& r, int picks, Held& held) {
  if (picks % kGroup != 0 || picks > min(r.held, kHeld)) {
    return;
  }
  const Tokens tokens = tokens_of(r, r.begin);
#pragma unroll
  for (int group = 0; group < kHeld / kGroup; ++group) {
    if (picks == (group + 1) * kGroup) {
#pragma unroll
      for (int l = group * kGroup / 2; l < (group + 1) * kGroup / 2; ++l) {
#pragma unroll
        for (int s = 0; s < kTokens; ++s) {
          held.w[s][l] = r.near[l * r.n + tokens.at[s]];
        }
      }
    }
  }
}

// Sums over picks of w[p] w[i] for a thread's tokens i, those with even numbers and those with odd ones apart.
struct Sums {
  double even[kTokens] = {}, odd[kTokens] = {};
};

// Adds the picks of so many groups.
template <class T>
__device__ void add_held(const Residual<T>& r, const Held& held, int p, int groups, Sums& sums) {
#pragma unroll
  for (int group = 0; group < kHeld / kGroup; ++group) {
    if (group < groups) {
#pragma unroll
      for (int l = group * kGroup / 2; l < (group + 1) * kGroup / 2; ++l) {
        const double2 picked = r.near[l * r.n + p];
#pragma unroll
        for (int s = 0; s < kTokens; ++s) {
          sums.even[s] += picked.x * held.w[s][l].x;
          sums.odd[s] += picked.y * held.w[s][l].y;
        }
      }
    }
  }
}

// Adds the picks from `first`, which is even, to `picks`.
template <class T>
__device__ void add_others(const Residual<T>& r, const Tokens& tokens, int p, int first, int picks,
                           Sums& sums) {
  const int near = min(picks, r.held), pairs = near / 2;
#pragma unroll 1
  for (int l = first / 2; l < pairs; ++l) {
    const double2 picked = r.near[l * r.n + p];
#pragma unroll
    for (int s = 0; s < kTokens; ++s) {
      const double2 own = r.near[l * r.n + tokens.at[s]];
      sums.even[s] += picked.x * own.x;
      sums.odd[s] += picked.y * own.y;
    }
  }
  if (near % 2 != 0) {
#pragma unroll
    for (int s = 0; s < kTokens; ++s) {
      sums.even[s] += r.near[pairs * r.n + p].x * r.near[pairs * r.n + tokens.at[s]].x;
    }
  }
#pragma unroll 1
  for (int l = r.held; l < picks; l += 2) {  // the last one may have no odd neighbour: times 0
    const double* const even = r.far + l * r.stride;
    const double* const odd = even + (l + 1 < picks ? r.stride : 0);
    const double picked_even = even[p], picked_odd = l + 1 < picks ? odd[p] : 0;
#pragma unroll
    for (int s = 0; s < kTokens; ++s) {
      sums.even[s] += picked_even * even[tokens.at[s]];
      sums.odd[s] += picked_odd * odd[tokens.at[s]];
    }
  }
}

// Takes the direction of token p out of all others. `picks` were made before.
template <class T>
__device__ void take(const Residual<T>& r, const Held& held, int p, int picks, int turn) {
  const T* const products = r.gram + static_cast<int64_t>(p) * r.stride;
  const double* const left_before = r.left + turn * r.n;
  double* const left_after = r.left + (1 - turn) * r.n;
  double most = 0;
  for (int begin = r.begin; begin < r.end; begin += kRun) {
    const Tokens tokens = tokens_of(r, begin);
    T product[kTokens];  // under way during the sums
    double left[kTokens], least[kTokens], w[kTokens];
#pragma unroll
    for (int s = 0; s < kTokens; ++s) {
      product[s] = products[tokens.at[s]];
    }
#pragma unroll
    for (int s = 0; s < kTokens; ++s) {
      left[s] = left_before[tokens.at[s]];
      least[s] = r.least[tokens.at[s]];
    }
    const double scale = tridiag::inverse_root(left_before[p]);
    Sums sums;
    const int groups = begin == r.begin ? groups_of(r, picks) : 0;
    add_held(r, held, p, groups, sums);
    add_others(r, tokens, p, groups * kGroup, picks, sums);
#pragma unroll
    for (int s = 0; s < kTokens; ++s) {
      w[s] = (product[s] - (sums.even[s] + sums.odd[s])) * scale;
      const double rest = left[s] - w[s] * w[s];
      left[s] = rest > least[s] && tokens.at[s] != p ? rest : 0;
      most = larger(most, left[s]);
    }
    put_w(r, tokens, picks, w);
#pragma unroll
    for (int s = 0; s < kTokens; ++s) {
      left_after[tokens.at[s]] = left[s];
    }
  }
  put_most(r, 1 - turn, most);
}

// What each pick adds to the energy, as a share of all. A warp sums some pairs of picks, one after the other, and then
// writes them all: of the l-th pair lanes l and 16 + l have one each.
template <class T>
__device__ void put_shares(const Residual<T>& r, const int32_t* picked, int picks, double whole,
                           T* scores, uint8_t* kept) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  for (int begin = 2 * warp; begin < picks; begin += 2 * 16 * warps) {
    double own = 0;
    for (int l = 0, pick = begin; l < 16 && pick < picks; ++l, pick += 2 * warps) {
      const double energy = warp_sum_of_two(lane, own_energies(r, pick, picks));
      own = l == lane % 16 ? energy : own;
    }
    const int pick = begin + lane % 16 * 2 * warps + lane / 16;
    if (pick < picks) {
      scores[picked[pick]] = static_cast<T>(own / whole);
      kept[picked[pick]] = 1;
    }
  }
}

// Nothing is left of the tokens that were not picked: the first ones stay, so many of them. By one warp.
__device__ void keep_first(uint8_t* kept, int n, int places) {
  const int lane = threadIdx.x % 32;
  for (int begin = 0; places > 0; begin += 32) {
    const bool free = begin + lane < n && kept[begin + lane] == 0;
    const unsigned lanes = __ballot_sync(kAllLanes, free);
    if (free && __popc(lanes & ((1u << lane) - 1)) < places) {
      kept[begin + lane] = 1;
    }
    places -= __popc(lanes);
  }
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

// A block: one image; one barrier a pick. A warp: `span` tokens; a thread: every 32nd of them, three at a time. Rows of
// gram and of w are read coalesced along the tokens. Shared memory: each warp's most and the `on_chip` numbers,
// dynamic; one block on a multiprocessor. Sums in float64, in a fixed order that depends on the image alone.
template <bool kOnChip, class T>
__global__ __launch_bounds__(32 * kPivotWarps, 1) void pivot_kernel(Images x, Pivot<T> a) {
  const int64_t b = blockIdx.x;
  const int64_t first = first_token(x, b);
  const Residual<T> r = residual_of<kOnChip>(x, a, b);
  const int places = static_cast<int>(min(places_of(a.budget, b), static_cast<int64_t>(r.n)));
  const double magnitude = a.largest[b];  // under way meanwhile
  start(r);
  if (!isfinite(magnitude)) {
    give_up(a, b, first, r.n, places);
    return;
  }
  for (int i = threadIdx.x; i < r.n; i += blockDim.x) {
    a.scores[first + i] = 0;
    a.kept[first + i] = 0;
  }
  __syncthreads();
  const double whole = warp_sum_of(threadIdx.x % 32, r.n, [&](int i) { return r.left[i]; });
  const double coverage = a.budget.coverage;
  int32_t* const picked = a.picked + first_kept(a.budget, b);
  Held held;
  double covered = 0;
  int picks = 0;
  while (picks < places) {
    const int turn = picks % 2;
    const int p = choose(r, turn);
    if (p < 0) {
      break;
    }
    take(r, held, p, picks, turn);
    if (threadIdx.x == 0) {
      picked[picks] = p;
    }
    __syncthreads();
    ++picks;
    if (coverage > 0) {
      covered += warp_sum(own_energy(r, picks - 1)) / whole;
      if (covered >= coverage) {
        break;
      }
    }
    hold(r, picks, held);
  }
  // After as many tokens as there are features, what was left of the others is rounding. Not looked at above, where
  // registers are short.
  picks = min(picks, static_cast<int>(x.features));
  put_shares(r, picked, picks, whole, a.scores + first, a.kept + first);
  if (coverage == 0 && picks < places) {
    __syncthreads();
    if (threadIdx.x < 32) {
      keep_first(a.kept + first, r.n, places - picks);
    }
  }
  if (threadIdx.x == 0) {
    a.ranks[b] = picks;
  }
}

}  // namespace

int64_t pivot_on_chip(const Images& x, const Budget& budget) {
  const int64_t places = std::min(budget.cu_keep ? budget.total_keep : budget.keep, x.tokens);
  const auto room = static_cast<int64_t>(shared_memory_limit() / sizeof(double)) - 2 * kPivotWarps;
  const int64_t useful = pivot_numbers(x.tokens) + (places + 1) / 2 * 2 * x.tokens;
  return std::max<int64_t>(0, std::min(room, useful));
}

template <class T>
void launch_pivot(const Images& x, const Pivot<T>& arguments, cudaStream_t stream) {
  const auto warps = std::clamp<int64_t>((x.tokens + kRun - 1) / kRun, 1, kPivotWarps);
  const bool on_chip = arguments.on_chip >= pivot_numbers(x.tokens);
  launch_clusters("pivot_kernel", on_chip ? pivot_kernel<true, T> : pivot_kernel<false, T>,
                  dim3(static_cast<unsigned>(x.images)), dim3(static_cast<unsigned>(32 * warps)),
                  {1, (2 * kPivotWarps + arguments.on_chip) * sizeof(double)}, stream, x,
                  arguments);
}

template void launch_pivot(const Images&, const Pivot<float>&, cudaStream_t);
template void launch_pivot(const Images&, const Pivot<double>&, cudaStream_t);

}  // namespace svdprune::cuda
