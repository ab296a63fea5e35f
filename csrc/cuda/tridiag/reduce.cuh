// The fused tridiagonalisation on a cluster; see Note [fused tridiagonalisation] in
// ../../cpu/tridiagonalise.h and Note [one exchange a step] in exchange.cuh.
#pragma once

#include "rows.cuh"

namespace svdprune::cuda {

// The places of results that a thread works on, for up to 32 kColumns of them: thread, thread + threads, ...
template <int kColumns>
constexpr int kOwnPlaces =
    kThreadsKnown ? (32 * kColumns + threads_of(kColumns) - 1) / threads_of(kColumns) : kColumns;

// Calls f(number, place, its row) for each of them.
template <int kColumns, class F>
__device__ __forceinline__ void for_own_places(const Team& team, F&& f) {
#pragma unroll
  for (int own = 0; own < kOwnPlaces<kColumns>; ++own) {
    const int place = team.thread + own * team.threads;
    if (place < 32 * kColumns) {
      f(own, place, row_of_place(team, place));
    }
  }
}

// Column k, each thread with the entries of its places: keeps T's row k and leaves the reflector in next_v, zero up
// to k and in row k of the image's matrix. tail: of the squares of this thread's entries from k + 2 on. pivot: entry
// k + 1.
template <int kColumns>
__device__ __forceinline__ void reflect_column(const Team& team, Shared& s, int k,
                                               const float (&column)[kOwnPlaces<kColumns>],
                                               float diagonal, float pivot, double tail) {
  const auto h = tridiag::reflect(pivot, block_sum(team, tail, s.partial[1]));
  const bool writes = (k & (team.size - 1)) == team.rank;
  for_own_places<kColumns>(team, [&](int own, int, int i) {
    const float value = i <= k || i >= s.n ? 0 : i == k + 1 ? 1 : column[own] * h.scale;
    s.next_v[i] = value;
    if (writes && i < s.n) {
      s.problem->gram[k * s.problem->stride + i] = value;
    }
  });
  if (team.thread == 0) {
    s.diagonal[k] = diagonal;
    s.coupling[k] = k + 1 < s.n ? h.beta : 0;
    s.tau[k] = h.tau;
  }
  __syncthreads();
}

// Column 0, from row 0 of scale times the image's matrix; and no update pending.
template <int kColumns>
__device__ __forceinline__ void first_column(const Team& team, Shared& s, float scale) {
  const auto entry = [&](int i) { return i < s.n ? scale * __ldcg(s.problem->gram + i) : 0; };
  const float diagonal = entry(0), pivot = entry(1);
  float column[kOwnPlaces<kColumns>];
  double tail = 0;
  for_own_places<kColumns>(team, [&](int own, int, int i) {
    column[own] = entry(i);
    s.v[i] = s.w[i] = 0;
    tail += i > 1 ? static_cast<double>(column[own]) * column[own] : 0;
  });
  cluster_sync();  // all blocks have read it: the reflector takes its place
  reflect_column<kColumns>(team, s, 0, column, diagonal, pivot, tail);
}

// The sweep of step k, with reflector k in next_v and the update of step k - 1 pending in v and w. Afterwards the
// matrix has no update pending, and v and w are free.
template <int kColumns>
__device__ __forceinline__ void sweep(const Team& team, Shared& s, Rows<kColumns>& rows, int k) {
  begin_round(team, s.steps, s.n, k + 1);
  rows.sweep(team, s, k + 1);
  end_round(s.steps);
}

// The rest of step k: reflector k + 1 in next_v, and the update of step k pending.
template <int kColumns>
__device__ __forceinline__ void next_column(const Team& team, Shared& s, int k) {
  const int first = k + 1;
  const double tau = s.tau[k];
  const RowResult* const of = latest(s.steps);
  const RowResult at_first = of[place_of_row(team, first)];
  const bool has_pivot = first + 1 < s.n;
  const RowResult at_pivot = has_pivot ? of[place_of_row(team, first + 1)] : RowResult{0, 0};
  const float v_pivot = has_pivot ? s.next_v[first + 1] : 0;
  double y[kOwnPlaces<kColumns>], v[kOwnPlaces<kColumns>], dot = 0;
  float column[kOwnPlaces<kColumns>];
  for_own_places<kColumns>(team, [&](int own, int place, int i) {
    const bool is_left = i >= first && i < s.n;
    y[own] = is_left ? of[place].product : 0;
    column[own] = is_left ? of[place].column : 0;
    v[own] = s.next_v[i];
    dot += v[own] * y[own];
  });
  const double half = 0.5 * tau * tau * block_sum(team, dot, s.partial[0]);
  const float w_first = tridiag::rank2_vector(tau, half, at_first.product, 1);
  // Of column `first`, with the update of step k.
  const auto entry = [w_first](float old, float v_i, float w_i) {
    return tridiag::updated(old, v_i, w_i, 1, w_first);
  };
  const float w_pivot = tridiag::rank2_vector(tau, half, at_pivot.product, v_pivot);
  double tail = 0;
  for_own_places<kColumns>(team, [&](int own, int, int i) {
    const float w = tridiag::rank2_vector(tau, half, y[own], v[own]);
    s.w[i] = w;
    column[own] = entry(column[own], static_cast<float>(v[own]), w);
    tail += i > first + 1 ? static_cast<double>(column[own]) * column[own] : 0;
  });
  float* const free = s.v;  // which no thread reads any more
  s.v = s.next_v;
  s.next_v = free;
  reflect_column<kColumns>(team, s, first, column, entry(at_first.column, 1, w_first),
                           entry(at_pivot.column, v_pivot, w_pivot), tail);
}

}  // namespace svdprune::cuda
