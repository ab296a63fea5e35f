// A warp's rows of the matrix, in registers as far as there is room for them, and what is done with them.
#pragma once

#include "exchange.cuh"
#include "householder.h"

namespace svdprune::cuda {

// What remains of the matrix: its trace and squared norm, or a part of them.
struct Remainder {
  double trace, square;
};

constexpr int kRowsAtOnce = 2;  // rows in shared memory that a warp takes together, sharing loads
constexpr int kColumnsAtOnce = 6;  // times 32 columns of rows in registers, without a branch

template <int kColumns>
struct Rows {
  static constexpr int kHeld = held_slots(kColumns);

  // Lane l has columns l, l + 32, ... of the first kHeld slots. n <= 32 kColumns.
  float a[kHeld][kColumns];

  // From scale times the image's matrix.
  __device__ __forceinline__ void load(const Team& team, const Shared& s, float scale) {
    const float* const rows = s.problem->gram;
    const int stride = s.problem->stride;
#pragma unroll 1
    for (int slot = kHeld; slot < slot_count(team, s.n); ++slot) {
      const int row = row_of_slot(team, slot);
#pragma unroll 4
      for (int j = team.lane; j < 32 * group_count(s.n); j += 32) {
        shared_row(team, s, slot)[j] =
            row < s.n && j < s.n ? scale * __ldcg(rows + row * stride + j) : 0;
      }
    }
    const float* from[kHeld];
    float factor[kHeld];
#pragma unroll
    for (int slot = 0; slot < kHeld; ++slot) {
      const int row = row_of_slot(team, slot);
      from[slot] = rows + min(row, s.n - 1) * stride + team.lane;
      factor[slot] = row < s.n ? scale : 0;
    }
#pragma unroll
    for (int q = 0; q < kColumns; ++q) {
      const bool exists = 32 * q < s.n - team.lane;
#pragma unroll
      for (int slot = 0; slot < kHeld; ++slot) {
        a[slot][q] = exists ? factor[slot] * __ldcg(from[slot] + 32 * q) : 0;
      }
    }
  }

  // Applies the pending update to all that is left from row and column `first` on, and sends the products with
  // next_v and the entries of column `first`.
  __device__ __forceinline__ void sweep(const Team& team, const Shared& s, int first) {
    if (slot_count(team, s.n) <= first_slot(team, first)) {
      return;
    }
    sweep_held(team, s, first);
#pragma unroll 1
    for (int slot = max(first_slot(team, first), kHeld); slot < slot_count(team, s.n);
         slot += kRowsAtOnce) {
      sweep_shared(team, s, first, slot);
    }
  }

  // Sends the products of the rows with q, whose entries before m are zero.
  __device__ __forceinline__ void multiply(const Team& team, const Shared& s, int m,
                                           const Exchange<float>& exchange, const float* q) const {
    const Left left = pairs_left(team, s, m);
    float product[kHeld] = {}, x[kColumns];
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
      x[c] = q[32 * c + team.lane];
    }
#pragma unroll
    for (int slot = 0; slot < kHeld; ++slot) {
      if (left.pair[slot / 2]) {
#pragma unroll
        for (int c = 0; c < kColumns; ++c) {
          product[slot] += a[slot][c] * x[c];
        }
      }
    }
    sum_slots(left, product, [&](int slot, float one, float other) {
      send_slots(team, exchange, slot, Pair<float>{one, other});
    });
#pragma unroll 1
    for (int slot = max(first_slot(team, m), kHeld); slot < slot_count(team, s.n); slot += 2) {
      float one = 0, other = 0;
      for (int j = team.lane; j < 32 * group_count(s.n); j += 32) {
        one += shared_row(team, s, slot)[j] * q[j];
        other += shared_row(team, s, slot + 1)[j] * q[j];
      }
      send_slots(team, exchange, slot, Pair<float>{warp_sum(one), warp_sum(other)});
    }
  }

  // This thread's part of what remains from row and column m on.
  __device__ __forceinline__ Remainder remainder(const Team& team, const Shared& s, int m) const {
    Remainder own{0, 0};
    const auto add = [&](float entry, bool is_left, bool on_diagonal) {
      const double value = is_left ? entry : 0;
      own.square += value * value;
      own.trace += on_diagonal ? value : 0;
    };
#pragma unroll
    for (int q = 0; q < kColumns; ++q) {
      if (32 * q + 31 < m) {
        continue;
      }
      const bool is_left = 32 * q >= m - team.lane;
#pragma unroll
      for (int slot = 0; slot < kHeld; ++slot) {
        const int row = row_of_slot(team, slot);
        add(a[slot][q], is_left && row >= m, 32 * q == row - team.lane);
      }
    }
#pragma unroll 1
    for (int slot = max(first_slot(team, m), kHeld); slot < slot_count(team, s.n); ++slot) {
      for (int j = team.lane; j < 32 * group_count(s.n); j += 32) {
        const int row = row_of_slot(team, slot);
        add(shared_row(team, s, slot)[j], row >= m && j >= m, row == j);
      }
    }
    return own;
  }

 private:
  __device__ __forceinline__ static float* shared_row(const Team& team, const Shared& s, int slot) {
    return s.rows + ((slot - kHeld) * team.warps + team.warp) * 32 * kColumns;
  }

  // Which pairs of slots in registers are left.
  struct Left {
    bool pair[kHeld / 2];
  };

  __device__ __forceinline__ static Left pairs_left(const Team& team, const Shared& s, int first) {
    Left left;
#pragma unroll
    for (int slot = 0; slot < kHeld; slot += 2) {
      const int group = group_of_slot(team, slot);
      left.pair[slot / 2] = group >= first / 32 && group < group_count(s.n);
    }
    return left;
  }

  // Sums numbers of the slots that are left over the warp, and calls send(slot, its sum and the next one's). Four at a
  // time: their sums wait for each other's shuffles.
  template <class F>
  __device__ __forceinline__ static void sum_slots(const Left& left, float (&number)[kHeld],
                                                   F&& send) {
#pragma unroll
    for (int begin = 0; begin < kHeld; begin += 4) {
      const int end = min(begin + 4, kHeld);
      if (!left.pair[begin / 2] && !left.pair[end / 2 - 1]) {
        continue;
      }
#pragma unroll
      for (int slot = begin; slot < end; ++slot) {
        number[slot] = warp_sum(number[slot]);
      }
#pragma unroll
      for (int slot = begin; slot < end; slot += 2) {
        if (left.pair[slot / 2]) {
          send(slot, number[slot], number[slot + 1]);
        }
      }
    }
  }

  __device__ __forceinline__ void sweep_held(const Team& team, const Shared& s, int first) {
    const Left left = pairs_left(team, s, first);
    float v_row[kHeld], w_row[kHeld], product[kHeld] = {}, entry[kHeld] = {};
#pragma unroll
    for (int slot = 0; slot < kHeld; ++slot) {
      const int row =
          min(row_of_slot(team, slot), 32 * kColumns - 1);  // of a slot without a row, any
      v_row[slot] = s.v[row];
      w_row[slot] = s.w[row];
    }
#pragma unroll
    for (int begin = 0; begin < kColumns; begin += kColumnsAtOnce) {
      const int end = min(begin + kColumnsAtOnce, kColumns);
      if (32 * end <= first) {
        continue;
      }
      float v[kColumnsAtOnce], w[kColumnsAtOnce], x[kColumnsAtOnce];
#pragma unroll
      for (int q = begin; q < end; ++q) {
        v[q - begin] = s.v[32 * q + team.lane];
        w[q - begin] = s.w[32 * q + team.lane];
        x[q - begin] = s.next_v[32 * q + team.lane];
      }
#pragma unroll
      for (int pair = 0; pair < kHeld / 2; ++pair) {
        if (!left.pair[pair]) {
          continue;
        }
#pragma unroll
        for (int q = begin; q < end; ++q) {
#pragma unroll
          for (int slot = 2 * pair; slot < 2 * pair + 2; ++slot) {
            a[slot][q] =
                tridiag::updated(a[slot][q], v_row[slot], w_row[slot], v[q - begin], w[q - begin]);
            product[slot] += a[slot][q] * x[q - begin];
          }
        }
        if (first >= 32 * begin) {
#pragma unroll
          for (int q = begin; q < end; ++q) {
#pragma unroll
            for (int slot = 2 * pair; slot < 2 * pair + 2; ++slot) {
              entry[slot] = 32 * q <= first ? a[slot][q] : entry[slot];
            }
          }
        }
      }
    }
    sum_slots(left, product, [&](int slot, float one, float other) {
      const float own = __shfl_sync(kAllLanes, entry[slot], first % 32);
      const float next = __shfl_sync(kAllLanes, entry[slot + 1], first % 32);
      send_slots(team, s.steps, slot, Pair<RowResult>{{one, own}, {other, next}});
    });
  }

  // Two slots in shared memory.
  __device__ __forceinline__ static void sweep_shared(const Team& team, const Shared& s, int first,
                                                      int slot) {
    float v_row[kRowsAtOnce], w_row[kRowsAtOnce], product[kRowsAtOnce] = {};
#pragma unroll
    for (int r = 0; r < kRowsAtOnce; ++r) {
      v_row[r] = s.v[row_of_slot(team, slot + r)];
      w_row[r] = s.w[row_of_slot(team, slot + r)];
    }
    for (int j = (first & ~3) + 4 * team.lane; j < 32 * group_count(s.n); j += 128) {
      const float4 v = *reinterpret_cast<const float4*>(s.v + j);
      const float4 w = *reinterpret_cast<const float4*>(s.w + j);
      const float4 x = *reinterpret_cast<const float4*>(s.next_v + j);
#pragma unroll
      for (int r = 0; r < kRowsAtOnce; ++r) {
        auto* const place = reinterpret_cast<float4*>(shared_row(team, s, slot + r) + j);
        float4 a = *place;
        a.x = tridiag::updated(a.x, v_row[r], w_row[r], v.x, w.x);
        a.y = tridiag::updated(a.y, v_row[r], w_row[r], v.y, w.y);
        a.z = tridiag::updated(a.z, v_row[r], w_row[r], v.z, w.z);
        a.w = tridiag::updated(a.w, v_row[r], w_row[r], v.w, w.w);
        *place = a;
        product[r] += (a.x * x.x + a.y * x.y) + (a.z * x.z + a.w * x.w);
      }
    }
    const float one = warp_sum(product[0]), other = warp_sum(product[1]);
    __syncwarp();
    Pair<RowResult> pair{{one, 0}, {other, 0}};
    if (first < s.n) {
      pair.first.column = shared_row(team, s, slot)[first];
      pair.second.column = shared_row(team, s, slot + 1)[first];
    }
    send_slots(team, s.steps, slot, pair);
  }
};

}  // namespace svdprune::cuda
