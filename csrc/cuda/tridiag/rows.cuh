// A warp's rows of the matrix, in registers as far as there is room for them, and what is done with them.
#pragma once

#include "exchange.cuh"
#include "householder.h"

#include <type_traits>

namespace svdprune::cuda {

constexpr int kColumnsAtOnce = 6;  // times 32 columns of rows in registers, without a branch

template <class Plan>
struct Rows {
  static constexpr int kColumns = Plan::kColumns, kHeld = Plan::kHeld;
  static constexpr int kTogether = kHeld == 3 ? 3 : 2;  // pairs that are worked on at the same time

  // Lane l has columns l, l + 32, ... of the first kHeld pairs. n <= 32 kColumns. Zero where there is no row.
  float a[2 * kHeld][kColumns];

  // From scale times the image's matrix.
  __device__ __forceinline__ void load(const Team& team, const Shared& s, float scale) {
    const float* const rows = s.problem->gram;
    const int stride = s.problem->stride;
#pragma unroll 1
    for (int pair = kHeld; pair < pair_count(team, s.n); ++pair) {
      for (int side = 0; side < 2; ++side) {
        const int row = row_of_pair(team, pair) + side;
#pragma unroll 4
        for (int j = team.lane; j < 32 * group_count(s.n); j += 32) {
          shared_row(team, s, pair, side)[j] =
              row < s.n && j < s.n ? scale * __ldcg(rows + row * stride + j) : 0;
        }
      }
    }
    const float* from[2 * kHeld];
    float factor[2 * kHeld];
#pragma unroll
    for (int slot = 0; slot < 2 * kHeld; ++slot) {
      const int row = row_of_pair(team, slot / 2) + slot % 2;
      from[slot] = rows + min(row, s.n - 1) * stride + team.lane;
      factor[slot] = row < s.n ? scale : 0;
    }
#pragma unroll
    for (int q = 0; q < kColumns; ++q) {
      const bool exists = 32 * q < s.n - team.lane;
#pragma unroll
      for (int slot = 0; slot < 2 * kHeld; ++slot) {
        a[slot][q] = exists ? factor[slot] * __ldcg(from[slot] + 32 * q) : 0;
      }
    }
  }

  // Applies the pending update to all that is left from row and column `first` on, and sends the products with
  // v and the entries of column `first`.
  __device__ __forceinline__ void sweep(const Team& team, const Shared& s, int first) {
    for_held(team, s.n, first,
             [&](int pair, auto slots) { sweep_held(team, s, first, pair, slots); });
    for_shared(team, s.n, first,
               [&](int pair, auto slots) { sweep_shared(team, s, first, pair, slots); });
  }

  // Sends the products of the rows with q, whose entries before m are zero.
  __device__ __forceinline__ void multiply(const Team& team, const Shared& s, int m,
                                           const Exchange<float>& exchange, const float* q) const {
    for_held(team, s.n, m, [&](int pair, auto slots) {
      float product[(slots + 3) / 4][4] = {};
#pragma unroll
      for (int c = 0; c < kColumns; ++c) {
        const float x = q[32 * c + team.lane];
#pragma unroll
        for (int slot = 0; slot < slots; ++slot) {
          product[slot / 4][slot % 4] += a[2 * pair + slot][c] * x;
        }
      }
#pragma unroll
      for (int four = 0; four < (slots + 3) / 4; ++four) {
        send_own(team, s.n, m, exchange, pair + 2 * four, slots - 4 * four,
                 pair_sums(team, product[four]));
      }
    });
    for_shared(team, s.n, m, [&](int pair, auto slots) {
      float product[4] = {};
      for (int j = team.lane; j < 32 * group_count(s.n); j += 32) {
#pragma unroll
        for (int slot = 0; slot < slots; ++slot) {
          product[slot] += shared_row(team, s, pair, slot)[j] * q[j];
        }
      }
      send_own(team, s.n, m, exchange, pair, slots, pair_sums(team, product));
    });
  }

  // This thread's part of the squared norm of what remains from row and column m on.
  __device__ __forceinline__ double square(const Team& team, const Shared& s, int m) const {
    double sum = 0;
    for_held(team, s.n, m, [&](int pair, auto slots) {
      float square[slots] = {};
#pragma unroll
      for (int q = 0; q < kColumns; ++q) {
        const bool counts = 32 * q >= m - team.lane;
#pragma unroll
        for (int slot = 0; slot < slots; ++slot) {
          square[slot] += counts ? a[2 * pair + slot][q] * a[2 * pair + slot][q] : 0;
        }
      }
#pragma unroll
      for (int slot = 0; slot < slots; ++slot) {
        sum += row_of_pair(team, pair + slot / 2) + slot % 2 >= m ? square[slot] : 0;
      }
    });
    for_shared(team, s.n, m, [&](int pair, auto slots) {
      for (int j = team.lane; j < 32 * group_count(s.n); j += 32) {
#pragma unroll
        for (int slot = 0; slot < slots; ++slot) {
          const float entry = shared_row(team, s, pair, slot)[j];
          sum += j >= m && row_of_pair(team, pair + slot / 2) + slot % 2 >= m ? entry * entry : 0;
        }
      }
    });
    return sum;
  }

 private:
  // Of an even row and the next one.
  __device__ __forceinline__ static Pair<Pending> pending_pair(const Shared& s, int row) {
    return *reinterpret_cast<const Pair<Pending>*>(s.pending + row);
  }

  __device__ __forceinline__ static float updated(float a, const Pending& row,
                                                  const Pending& column) {
    return tridiag::updated(a, row.v, row.w, column.v, column.w);
  }

  // Row `slot` % 2 of pair `pair` + `slot` / 2.
  __device__ __forceinline__ static float* shared_row(const Team& team, const Shared& s, int pair,
                                                      int slot) {
    const int place = (pair + slot / 2 - kHeld) * team.warps + team.warp;
    return s.rows + (2 * place + slot % 2) * 32 * kColumns;
  }

  // Calls f(pair, slots) for what is left in registers: for the two rows each of kTogether pairs from `pair` on, which
  // hide each other's latencies, or for as many of them as there are.
  template <class F>
  __device__ __forceinline__ static void for_held(const Team& team, int n, int first, F&& f) {
#pragma unroll
    for (int pair = 0; pair < kHeld; pair += kTogether) {
      if (kTogether == 3 && is_left(team, pair + 2, n, first)) {
        f(pair, std::integral_constant<int, 6>{});
      } else if (pair + 1 < kHeld && is_left(team, pair + 1, n, first)) {
        f(pair, std::integral_constant<int, 4>{});
      } else if (is_left(team, pair, n, first)) {
        f(pair, std::integral_constant<int, 2>{});
      }
    }
  }

  // Likewise for what is left in shared memory, two pairs at a time.
  template <class F>
  __device__ __forceinline__ static void for_shared(const Team& team, int n, int first, F&& f) {
#pragma unroll 1
    for (int pair = kHeld; pair < pair_count(team, n); pair += 2) {
      if (is_left(team, pair + 1, n, first)) {
        f(pair, std::integral_constant<int, 4>{});
      } else if (is_left(team, pair, n, first)) {
        f(pair, std::integral_constant<int, 2>{});
      }
    }
  }

  // Sends what up to two pairs from `pair` on gave, `slots` rows: each half of the warp that of its own one, if it is left.
  template <class T>
  __device__ __forceinline__ static void send_own(const Team& team, int n, int first,
                                                  const Exchange<T>& exchange, int pair, int slots,
                                                  const Pair<T>& results) {
    const int own = team.lane / 16;
    send_pair(team, exchange, row_of_pair(team, pair + own), results,
              2 * own < slots && is_left(team, pair + own, n, first));
  }

  // The sums over the warp of two pairs' numbers: in lanes 0 to 15 those of the first, in the others of the second.
  __device__ __forceinline__ static Pair<float> pair_sums(const Team& team,
                                                          const float (&number)[4]) {
    const float own = warp_sum_of_four(team.lane, number);
    const float other = __shfl_xor_sync(kAllLanes, own, 8);
    return team.lane & 8 ? Pair<float>{other, own} : Pair<float>{own, other};
  }

  // Two pairs' numbers of lane `from`: in lanes 0 to 15 those of the first, in the others of the second.
  __device__ __forceinline__ static Pair<float> pair_of_lane(const Team& team, int from,
                                                             const float (&number)[4]) {
    const float first = __shfl_sync(kAllLanes, number[0], from);
    const float second = __shfl_sync(kAllLanes, number[1], from);
    const float third = __shfl_sync(kAllLanes, number[2], from);
    const float fourth = __shfl_sync(kAllLanes, number[3], from);
    return team.lane < 16 ? Pair<float>{first, second} : Pair<float>{third, fourth};
  }

  // The first rows of `slots` in registers are those of `pair`.
  template <class Slots>
  __device__ __forceinline__ void sweep_held(const Team& team, const Shared& s, int first, int pair,
                                             Slots slots) {
    float product[(slots + 3) / 4][4] = {}, entry[(slots + 3) / 4][4] = {};
    Pending rows[slots];
#pragma unroll
    for (int slot = 0; slot < slots; slot += 2) {
      const auto both = pending_pair(s, row_of_pair(team, pair + slot / 2));
      rows[slot] = both.first;
      rows[slot + 1] = both.second;
    }
#pragma unroll
    for (int begin = 0; begin < kColumns; begin += kColumnsAtOnce) {
      const int end = min(begin + kColumnsAtOnce, kColumns);
      if (32 * end <= first) {
        continue;
      }
#pragma unroll
      for (int q = begin; q < end; ++q) {
        const Pending other = s.pending[32 * q + team.lane];
        const float x = s.v[32 * q + team.lane];
#pragma unroll
        for (int slot = 0; slot < slots; ++slot) {
          float& value = a[2 * pair + slot][q];
          value = updated(value, rows[slot], other);
          product[slot / 4][slot % 4] += value * x;
        }
      }
      if (first >= 32 * begin) {
#pragma unroll
        for (int q = begin; q < end; ++q) {
#pragma unroll
          for (int slot = 0; slot < slots; ++slot) {
            float& kept = entry[slot / 4][slot % 4];
            kept = 32 * q <= first ? a[2 * pair + slot][q] : kept;
          }
        }
      }
    }
#pragma unroll
    for (int four = 0; four < (slots + 3) / 4; ++four) {
      const Pair<float> products = pair_sums(team, product[four]);
      const Pair<float> entries = pair_of_lane(team, first % 32, entry[four]);
      send_own(team, s.n, first, s.steps, pair + 2 * four, slots - 4 * four,
               Pair<RowResult>{{products.first, entries.first}, {products.second, entries.second}});
    }
  }

  // A lane has columns in twos, so that the warp reads updates that lie side by side.
  template <class Slots>
  __device__ __forceinline__ static void sweep_shared(const Team& team, const Shared& s, int first,
                                                      int pair, Slots slots) {
    float product[4] = {};
    Pending rows[slots];
#pragma unroll
    for (int slot = 0; slot < slots; slot += 2) {
      const auto both = pending_pair(s, row_of_pair(team, pair + slot / 2));
      rows[slot] = both.first;
      rows[slot + 1] = both.second;
    }
    for (int j = (first & ~1) + 2 * team.lane; j < 32 * group_count(s.n); j += 64) {
      const auto others = pending_pair(s, j);
      const auto x = *reinterpret_cast<const Pair<float>*>(s.v + j);
#pragma unroll
      for (int slot = 0; slot < slots; ++slot) {
        auto* const place = reinterpret_cast<Pair<float>*>(shared_row(team, s, pair, slot) + j);
        Pair<float> values = *place;
        values.first = updated(values.first, rows[slot], others.first);
        values.second = updated(values.second, rows[slot], others.second);
        *place = values;
        product[slot] += values.first * x.first + values.second * x.second;
      }
    }
    const Pair<float> products = pair_sums(team, product);
    __syncwarp();
    const int own = team.lane / 16;
    Pair<RowResult> results{{products.first, 0}, {products.second, 0}};
    if (2 * own < slots && first < s.n) {
      results.first.column = shared_row(team, s, pair + own, 0)[first];
      results.second.column = shared_row(team, s, pair + own, 1)[first];
    }
    send_own(team, s.n, first, s.steps, pair, slots, results);
  }
};

}  // namespace svdprune::cuda
