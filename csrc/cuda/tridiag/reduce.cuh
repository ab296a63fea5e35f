// The fused tridiagonalisation on a cluster; see Note [fused tridiagonalisation] in
// ../../cpu/tridiagonalise.h.
//
// Note [one exchange a step]
// In step k each block sweeps its own rows once: it applies the pending update, multiplies by v_k,
// and sends each row's product and its entry of column k + 1 to all blocks. After the one barrier of
// the step every block forms w_k, the next column and its reflector from what it received, in the
// same order and so with the same bits, and nothing else has to be agreed on. Two buffers take turns:
// a block that is ahead writes the other one.
#pragma once

#include "householder.h"
#include "shared.cuh"

namespace svdprune::cuda {

constexpr int kRowsAtOnce =
    4;  // rows in shared memory that a warp takes together, sharing loads of v, w

// Slots of this block's rows from `first` on.
__device__ __forceinline__ int first_slot(const Team& team, int first) {
  return first > team.rank ? (first - team.rank + team.size - 1) / team.size : 0;
}

__device__ __forceinline__ int slot_count(const Team& team, int n) {
  return (n - team.rank + team.size - 1) / team.size;
}

// A warp's rows `slot`, slot + warps, ... (count of them), columns from `first`: applies the pending
// update, and returns the products with next_v in every lane.
__device__ __forceinline__ void sweep_rows(const Team& team, const Shared& s, int first, int slot,
                                           int count, float (&product)[kRowsAtOnce]) {
  float v_row[kRowsAtOnce], w_row[kRowsAtOnce];
#pragma unroll
  for (int r = 0; r < kRowsAtOnce; ++r) {
    const int row = (slot + (r < count ? r : 0) * team.warps) * team.size + team.rank;
    v_row[r] = s.v[row];
    w_row[r] = s.w[row];
    product[r] = 0;
  }
  for (int j = (first & ~3) + 4 * team.lane; j < s.row_length; j += 128) {
    const float4 v = *reinterpret_cast<const float4*>(s.v + j);
    const float4 w = *reinterpret_cast<const float4*>(s.w + j);
    const float4 x = *reinterpret_cast<const float4*>(s.next_v + j);
#pragma unroll
    for (int r = 0; r < kRowsAtOnce; ++r) {
      if (r < count) {
        auto* const place =
            reinterpret_cast<float4*>(s.rows + (slot + r * team.warps) * s.row_length + j);
        float4 a = *place;
        a.x = tridiag::updated(a.x, v_row[r], w_row[r], v.x, w.x);
        a.y = tridiag::updated(a.y, v_row[r], w_row[r], v.y, w.y);
        a.z = tridiag::updated(a.z, v_row[r], w_row[r], v.z, w.z);
        a.w = tridiag::updated(a.w, v_row[r], w_row[r], v.w, w.w);
        *place = a;
        product[r] += (a.x * x.x + a.y * x.y) + (a.z * x.z + a.w * x.w);
      }
    }
  }
#pragma unroll
  for (int r = 0; r < kRowsAtOnce; ++r) {
    if (r < count) {
      product[r] = warp_sum(product[r]);
    }
  }
}

// The warp's first rows, slots warp, warp + warps, ..., in registers: lane l has columns l, l + 32, ...
// of each. n <= 32 kColumns.
template <int kColumns>
struct HeldRows {
  static constexpr int kHeld = kColumns <= 18 ? 2 : 1;  // rows for which there are registers

  float a[kHeld][kColumns];

  __device__ __forceinline__ void load(const Team& team, const Shared& s) {
#pragma unroll
    for (int r = 0; r < kHeld; ++r) {
      const int slot = team.warp + r * team.warps;
#pragma unroll
      for (int q = 0; q < kColumns; ++q) {
        const int j = 32 * q + team.lane;
        const bool exists = slot < slot_count(team, s.n) && j < s.n;
        a[r][q] = exists ? s.rows[slot * s.row_length + j] : 0;
      }
    }
  }

  // Back to shared memory, for a look at the whole matrix.
  __device__ __forceinline__ void store(const Team& team, const Shared& s) const {
#pragma unroll
    for (int r = 0; r < kHeld; ++r) {
      const int slot = team.warp + r * team.warps;
#pragma unroll
      for (int q = 0; q < kColumns; ++q) {
        const int j = 32 * q + team.lane;
        if (slot < slot_count(team, s.n) && j < s.n) {
          s.rows[slot * s.row_length + j] = a[r][q];
        }
      }
    }
  }

  // As sweep_rows, and sends the results.
  __device__ __forceinline__ void sweep(const Team& team, const Shared& s, int first,
                                        RowResult* exchange) {
    bool live[kHeld];
    float v_row[kHeld], w_row[kHeld], product[kHeld] = {}, entry[kHeld] = {};
#pragma unroll
    for (int r = 0; r < kHeld; ++r) {
      const int row = (team.warp + r * team.warps) * team.size + team.rank;
      live[r] = row >= first && row < s.n;
      v_row[r] = live[r] ? s.v[row] : 0;
      w_row[r] = live[r] ? s.w[row] : 0;
    }
    if (!live[0] && !live[kHeld - 1]) {
      return;
    }
#pragma unroll
    for (int q = 0; q < kColumns; ++q) {
      if (32 * q + 31 < first) {
        continue;
      }
      const int j = 32 * q + team.lane;
      const float v = s.v[j], w = s.w[j], x = s.next_v[j];
#pragma unroll
      for (int r = 0; r < kHeld; ++r) {
        a[r][q] = tridiag::updated(a[r][q], v_row[r], w_row[r], v, w);
        product[r] += a[r][q] * x;
        entry[r] = 32 * q <= first ? a[r][q] : entry[r];  // of the column's own 32 in the end
      }
    }
#pragma unroll
    for (int r = 0; r < kHeld; ++r) {
      const RowResult result{warp_sum(product[r]), __shfl_sync(kAllLanes, entry[r], first % 32)};
      if (live[r]) {
        const int row = (team.warp + r * team.warps) * team.size + team.rank;
        tell_all(team, exchange + row, result);
      }
    }
  }
};

// This block's part of step k = first - 1.
template <int kColumns>
__device__ __forceinline__ void sweep(const Team& team, const Shared& s, HeldRows<kColumns>& held,
                                      int first, RowResult* exchange) {
  held.sweep(team, s, first, exchange);
  const int slots = slot_count(team, s.n);
  const int in_shared = max(first_slot(team, first), HeldRows<kColumns>::kHeld * team.warps);
  const int stride = kRowsAtOnce * team.warps;
  for (int slot = in_shared + team.warp; slot < slots; slot += stride) {
    const int count = min(kRowsAtOnce, (slots - slot + team.warps - 1) / team.warps);
    float product[kRowsAtOnce];
    sweep_rows(team, s, first, slot, count, product);
    __syncwarp();
#pragma unroll
    for (int r = 0; r < kRowsAtOnce; ++r) {
      if (r < count) {
        const int own = slot + r * team.warps;
        const float entry = s.rows[own * s.row_length + first];
        tell_all(team, exchange + own * team.size + team.rank, RowResult{product[r], entry});
      }
    }
  }
}

// Column k, whose entries from k on stand in next_v, each thread having written its own (i % threads
// == thread): keeps T's row k and leaves the reflector in next_v, zero up to k. pivot: entry k + 1.
// reflectors [n, stride]: v_k goes to row k.
__device__ __forceinline__ void reflect_column(const Team& team, Shared& s, int k, float diagonal,
                                               float pivot, float* reflectors, int64_t stride,
                                               double& tau) {
  double tail = 0;
  for (int i = team.thread; i < s.n; i += team.threads) {
    tail += i > k + 1 ? static_cast<double>(s.next_v[i]) * s.next_v[i] : 0;
  }
  const auto h = tridiag::reflect(pivot, block_sum(team, tail, s.partial[1]));
  tau = h.tau;
  const bool writes = k % team.size == team.rank;
  for (int i = team.thread; i < kMostTokens; i += team.threads) {
    const float value = i <= k || i >= s.n ? 0 : i == k + 1 ? 1 : s.next_v[i] * h.scale;
    s.next_v[i] = value;
    if (writes && i < s.n) {
      reflectors[k * stride + i] = value;
    }
  }
  if (team.thread == 0) {
    s.diagonal[k] = diagonal;
    s.coupling[k] = k + 1 < s.n ? h.beta : 0;
    s.tau[k] = static_cast<float>(h.tau);
  }
  __syncthreads();
}

// Column 0, from block 0's first row.
__device__ __forceinline__ double first_column(const Team& team, Shared& s, float* reflectors,
                                               int64_t stride) {
  const float* row = cluster_map(s.rows, 0);
  for (int i = team.thread; i < kMostTokens; i += team.threads) {
    s.v[i] = s.w[i] = 0;
    s.next_v[i] = i < s.n ? row[i] : 0;
  }
  double tau = 0;
  reflect_column(team, s, 0, row[0], s.n > 1 ? row[1] : 0, reflectors, stride, tau);
  return tau;
}

// Step k: from reflector k in next_v, with the update of step k - 1 pending in v and w, to reflector k
// + 1 with step k's pending.
template <int kColumns>
__device__ __forceinline__ double next_column(const Team& team, Shared& s, HeldRows<kColumns>& held,
                                              int k, double tau, float* reflectors,
                                              int64_t stride) {
  const int first = k + 1;
  RowResult* const received = s.exchange + k % 2 * s.n;
  sweep(team, s, held, first, received);
  cluster_sync();

  double dot = 0;
  for (int i = team.thread; i < s.n; i += team.threads) {
    dot += i >= first ? static_cast<double>(s.next_v[i]) * received[i].product : 0;
  }
  const double half = 0.5 * tau * tau * block_sum(team, dot, s.partial[0]);
  const float w_first = tridiag::rank2_vector(tau, half, received[first].product, 1);
  const auto entry = [&](int i) {  // of column `first`, with the update of step k
    const float w = tridiag::rank2_vector(tau, half, received[i].product, s.next_v[i]);
    return tridiag::updated(received[i].column, s.next_v[i], w, 1, w_first);
  };
  const float diagonal = entry(first);
  const float pivot = first + 1 < s.n ? entry(first + 1) : 0;
  // The old v, which no thread reads any more, takes the column.
  for (int i = team.thread; i < s.n; i += team.threads) {
    s.v[i] = i >= first ? entry(i) : 0;
    s.w[i] = i >= first ? tridiag::rank2_vector(tau, half, received[i].product, s.next_v[i]) : 0;
  }
  float* const column = s.v;
  s.v = s.next_v;
  s.next_v = column;
  double next_tau = 0;
  reflect_column(team, s, first, diagonal, pivot, reflectors, stride, next_tau);
  return next_tau;
}

}  // namespace svdprune::cuda
