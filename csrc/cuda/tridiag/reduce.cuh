// The fused tridiagonalisation on a cluster; see Note [fused tridiagonalisation] in ../../cpu/tridiagonalise.h,
// Note [one reduction a step] in householder.h and Note [one exchange a step] in exchange.cuh.
#pragma once

#include "rows.cuh"
#include "sturm.h"

namespace svdprune::cuda {

// At most.
template <int kColumns>
constexpr int kOwnRows = own_rows(kColumns, kThreadsKnown ? threads_of(kColumns) : 32);

// Calls f(number, row) for each row that a thread works on.
template <int kColumns, class F>
__device__ __forceinline__ void for_own_rows(const Team& team, F&& f) {
#pragma unroll
  for (int own = 0; own < kOwnRows<kColumns>; ++own) {
    if (kThreadsKnown || own < own_rows(kColumns, team.threads)) {
      f(own, team.thread + own * team.threads);
    }
  }
}

// Whether this thread keeps s.problem->looks; not thread 0, which has T's rows to keep.
__device__ __forceinline__ bool keeps_looks(const Team& team) {
  return team.thread == team.threads - 1;
}

// Keeps T's row k, and leaves in v the reflector of column k, whose entries each thread has for its rows.
template <int kColumns>
__device__ __forceinline__ void reflect_column(const Team& team, Shared& s, int k,
                                               const double (&column)[kOwnRows<kColumns>],
                                               double diagonal, double pivot, double tail) {
  const auto h = tridiag::reflect(pivot, tail);
  for_own_rows<kColumns>(team, [&](int own, int i) {
    const auto entry = static_cast<float>(column[own] * h.scale);
    s.v[i] = i <= k || i >= s.n ? 0 : i == k + 1 ? 1 : entry;
  });
  if (team.thread == 0) {
    const double beta = k + 1 < s.n ? h.beta : 0;
    s.diagonal[k] = diagonal;
    s.coupling[k] = beta;
    s.tau[k] = h.tau;
    if (k + 1 < s.n) {
      s.squares[k + 1] = beta * beta + tridiag::kLeastSquare;
    }
  }
  if (keeps_looks(team)) {
    s.problem->looks.take(k + 1, diagonal, h.beta);
  }
  __syncthreads();
}

// Column 0, from row 0 of scale times the image's matrix; and no update pending.
template <int kColumns>
__device__ __forceinline__ void first_column(const Team& team, Shared& s, float scale) {
  const auto entry = [&](int i) { return i < s.n ? scale * __ldcg(s.problem->gram + i) : 0; };
  const float diagonal = entry(0), pivot = entry(1);
  double column[kOwnRows<kColumns>], tail = 0;
  for_own_rows<kColumns>(team, [&](int own, int i) {
    column[own] = entry(i);
    s.pending[i] = {0, 0};
    tail += i > 1 ? column[own] * column[own] : 0;
  });
  cluster_sync();  // all blocks have read it: the reflector takes its place
  tail = block_sum(team, tail, s.partial[0]);
  reflect_column<kColumns>(team, s, 0, column, diagonal, pivot, tail);
}

// The sweep of step k, with reflector k in v and the update of step k - 1 pending. Afterwards none is, and that memory
// is free.
template <class Plan>
__device__ __forceinline__ void sweep(const Team& team, Shared& s, Rows<Plan>& rows, int k) {
  begin_round(team, s.steps, s.n, k + 1);
  rows.sweep(team, s, k + 1);
}

// The rest of step k: reflector k to row k of the image's matrix, reflector k + 1 in v, and the update of step k
// pending.
template <int kColumns>
__device__ __forceinline__ void next_column(const Team& team, Shared& s, int k) {
  constexpr int kOwn = kOwnRows<kColumns>;
  const int first = k + 1;
  const bool has_pivot = first + 1 < s.n, keeps = (k & (team.size - 1)) == team.rank;
  const double tau = s.tau[k], v_pivot = has_pivot ? s.v[first + 1] : 0;
  double v[kOwn], vv = 0;
  for_own_rows<kColumns>(team, [&](int own, int i) {
    const float entry = s.v[i];
    if (keeps && i < s.n) {
      s.problem->reflectors[k * s.problem->stride + i] = entry;
    }
    v[own] = entry;
    vv += i > first + 1 ? v[own] * v[own] : 0;
  });

  end_round(s.steps);
  const RowResult* const of = latest(s.steps);
  const RowResult at_first = of[first], at_pivot = has_pivot ? of[first + 1] : RowResult{0, 0};
  double scaled_y[kOwn], g[kOwn], sums[4] = {0, 0, 0, vv};
  for_own_rows<kColumns>(team, [&](int own, int i) {
    const bool is_left = i >= first && i < s.n;
    const double y = is_left ? of[i].product : 0;
    scaled_y[own] = tau * y;
    g[own] = (is_left ? of[i].column : 0) - scaled_y[own];
    const double g_below = i > first + 1 ? g[own] : 0;
    sums[0] += v[own] * y;
    sums[1] += g_below * g_below;
    sums[2] += g_below * v[own];
  });
  block_sums(team, sums, s.sums);
  const double half = 0.5 * tau * tau * sums[0];
  const double slope = 2 * half - tau * at_first.product;

  for_own_rows<kColumns>(team, [&](int own, int i) {
    s.pending[i] = {s.v[i], static_cast<float>(scaled_y[own] - half * v[own])};
    g[own] += slope * v[own];
  });
  double tail = tridiag::combined_square(slope, sums[1], sums[2], sums[3]);
  if (tail < 0) {
    double own_tail = 0;
    for_own_rows<kColumns>(
        team, [&](int own, int i) { own_tail += i > first + 1 ? g[own] * g[own] : 0; });
    tail = block_sum(team, own_tail, s.partial[0]);
  }
  reflect_column<kColumns>(team, s, first, g, at_first.column - tau * at_first.product + slope,
                           at_pivot.column - tau * at_pivot.product + slope * v_pivot, tail);
}

}  // namespace svdprune::cuda
