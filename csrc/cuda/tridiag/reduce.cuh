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

// A warp's rows `slot`, slot + warps, ... (count of them) in shared memory, columns from `first`: applies the
// pending update, and returns the products with next_v in every lane.
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
        auto* const place = reinterpret_cast<float4*>(row_of_slot(s, slot + r * team.warps) + j);
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
  static constexpr int kHeld = held_rows(kColumns);

  float a[kHeld][kColumns];

  __device__ __forceinline__ static int row(const Team& team, int r) {
    return (team.warp + r * team.warps) * team.size + team.rank;
  }

  // From scale * rows [n, stride].
  __device__ __forceinline__ void load(const Team& team, int n, const float* rows, int64_t stride,
                                       float scale) {
#pragma unroll
    for (int r = 0; r < kHeld; ++r) {
#pragma unroll
      for (int q = 0; q < kColumns; ++q) {
        const int i = row(team, r), j = 32 * q + team.lane;
        a[r][q] = i < n && j < n ? scale * __ldcg(rows + i * stride + j) : 0;
      }
    }
  }

  // Those from row and column `first` on to rows [n, stride].
  __device__ __forceinline__ void store(const Team& team, int n, int first, float* rows,
                                        int64_t stride) const {
#pragma unroll
    for (int r = 0; r < kHeld; ++r) {
#pragma unroll
      for (int q = 0; q < kColumns; ++q) {
        const int i = row(team, r), j = 32 * q + team.lane;
        if (i >= first && i < n && j >= first && j < n) {
          rows[i * stride + j] = a[r][q];
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
      live[r] = row(team, r) >= first && row(team, r) < s.n;
      v_row[r] = live[r] ? s.v[row(team, r)] : 0;
      w_row[r] = live[r] ? s.w[row(team, r)] : 0;
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
        tell_all(team, exchange + row(team, r), result);
      }
    }
  }
};

// What the blocks send each other in step k.
__device__ __forceinline__ RowResult* exchange_of(const Shared& s, int k) {
  return k % 2 == 0 ? s.exchange[0] : s.exchange[1];
}

// The sweep of step k, with reflector k in next_v and the update of step k - 1 pending in v and w. Afterwards the
// matrix has no update pending, and v and w are free.
template <int kColumns>
__device__ __forceinline__ void sweep(const Team& team, const Shared& s, HeldRows<kColumns>& held,
                                      int k) {
  const int first = k + 1;
  RowResult* const exchange = exchange_of(s, k);
  held.sweep(team, s, first, exchange);
  const int slots = slot_count(team, s.n);
  const int stride = kRowsAtOnce * team.warps;
  for (int slot = max(first_slot(team, first), s.held) + team.warp; slot < slots; slot += stride) {
    const int count = min(kRowsAtOnce, (slots - slot + team.warps - 1) / team.warps);
    float product[kRowsAtOnce];
    sweep_rows(team, s, first, slot, count, product);
    __syncwarp();
#pragma unroll
    for (int r = 0; r < kRowsAtOnce; ++r) {
      if (r < count) {
        const int own = slot + r * team.warps;
        const float entry = row_of_slot(s, own)[first];
        tell_all(team, exchange + own * team.size + team.rank, RowResult{product[r], entry});
      }
    }
  }
  cluster_sync();
}

// Column k, whose entries from k on stand in next_v, each thread having written its own (i % threads
// == thread): keeps T's row k and leaves the reflector in next_v, zero up to k. pivot: entry k + 1.
// reflectors [n, stride]: v_k goes to row k.
__device__ __forceinline__ void reflect_column(const Team& team, Shared& s, int k, float diagonal,
                                               float pivot, float* reflectors, int64_t stride) {
  double tail = 0;
  for (int i = team.thread; i < s.n; i += team.threads) {
    tail += i > k + 1 ? static_cast<double>(s.next_v[i]) * s.next_v[i] : 0;
  }
  const auto h = tridiag::reflect(pivot, block_sum(team, tail, s.partial[1]));
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
    s.tau[k] = h.tau;
  }
  __syncthreads();
}

// Column 0, which is in next_v.
__device__ __forceinline__ void first_column(const Team& team, Shared& s, float* reflectors,
                                             int64_t stride) {
  const float diagonal = s.next_v[0], pivot = s.n > 1 ? s.next_v[1] : 0;
  reflect_column(team, s, 0, diagonal, pivot, reflectors, stride);
}

// The rest of step k: reflector k + 1 in next_v, and the update of step k pending.
__device__ __forceinline__ void next_column(const Team& team, Shared& s, int k, float* reflectors,
                                            int64_t stride) {
  const int first = k + 1;
  const double tau = s.tau[k];
  const RowResult* const received = exchange_of(s, k);
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
  reflect_column(team, s, first, diagonal, pivot, reflectors, stride);
}

}  // namespace svdprune::cuda
