// From eigenvectors of T_m to leverage scores: the way back through the reflectors, then squared row
// norms.
#pragma once

#include "shared.cuh"

namespace svdprune::cuda {

// Vectors that a warp takes back together, as their sums wait for each other's shuffles.
SVDPRUNE_HOST_DEVICE constexpr int vectors_together(int columns) {
  return columns <= 24 ? 2 : 1;
}

// z <- (I - tau v v^T) z for vectors of 32 kColumns numbers, by a warp: lane l has entries l, l + 32,
// ... of each. Sums in float32.
template <int kColumns>
__device__ __forceinline__ void apply_reflector(const Team& team, float tau, const float* v,
                                                float (&z)[vectors_together(kColumns)][kColumns]) {
  constexpr int kTogether = vectors_together(kColumns);
  float parts[kTogether][2] = {}, factor[kTogether];
#pragma unroll
  for (int q = 0; q < kColumns; ++q) {
#pragma unroll
    for (int t = 0; t < kTogether; ++t) {
      parts[t][q % 2] += v[32 * q + team.lane] * z[t][q];
    }
  }
#pragma unroll
  for (int t = 0; t < kTogether; ++t) {
    factor[t] = tau * warp_sum(parts[t][0] + parts[t][1]);
  }
#pragma unroll
  for (int q = 0; q < kColumns; ++q) {
#pragma unroll
    for (int t = 0; t < kTogether; ++t) {
      z[t][q] -= factor[t] * v[32 * q + team.lane];
    }
  }
}

// Rows begin .. end of reflectors [.., stride] to stage [end - begin, 32 kColumns], zeros from n on. Past
// the L1 cache, which may hold what stood there before.
template <int kColumns>
__device__ __forceinline__ void stage_reflectors(const Team& team, int n, int begin, int end,
                                                 const float* reflectors, int stride,
                                                 float* stage) {
  __syncthreads();
  for (int k = begin + team.warp; k < end; k += team.warps) {
    const float* const from = reflectors + k * stride + team.lane;
    float* const to = stage + (k - begin) * 32 * kColumns + team.lane;
#pragma unroll
    for (int q = 0; q < kColumns; ++q) {
      to[32 * q] = 32 * q < n - team.lane ? __ldcg(from + 32 * q) : 0;
    }
  }
  __syncthreads();
}

// vectors [columns, stride] <- H_0 H_1 ... H_count-1 vectors, some at a time a warp, in whose registers they
// stay; the reflectors pass through the rows' memory, as many at a time as fit.
template <int kColumns>
__device__ __forceinline__ void apply_reflectors(const Team& team, const Shared& s, int count,
                                                 int columns, const float* reflectors,
                                                 float* vectors, int stride) {
  float* const stage = reinterpret_cast<float*>(s.work);
  constexpr int kTogether = vectors_together(kColumns), kLength = 32 * kColumns;
  const int staged = static_cast<int>(work_bytes(s) / (sizeof(float) * kLength));
  const int step = team.size * team.warps;
  for (int base = team.rank; base < columns; base += kTogether * step) {
    const int j = base + team.size * team.warp;
    float* const own = vectors + j * stride + team.lane;
    float z[kTogether][kColumns];
#pragma unroll
    for (int t = 0; t < kTogether; ++t) {
#pragma unroll
      for (int q = 0; q < kColumns; ++q) {
        const bool exists = j + t * step < columns && 32 * q < s.n - team.lane;
        z[t][q] = exists ? __ldcg(own + t * step * stride + 32 * q) : 0;
      }
    }
    for (int end = count; end > 0; end -= staged) {
      const int begin = max(0, end - staged);
      stage_reflectors<kColumns>(team, s.n, begin, end, reflectors, stride, stage);
      for (int k = end - 1; j < columns && k >= begin; --k) {
        apply_reflector(team, static_cast<float>(s.tau[k]), stage + (k - begin) * kLength, z);
      }
    }
#pragma unroll
    for (int t = 0; t < kTogether; ++t) {
#pragma unroll
      for (int q = 0; q < kColumns; ++q) {
        if (j + t * step < columns && 32 * q < s.n - team.lane) {
          own[t * step * stride + 32 * q] = z[t][q];
        }
      }
    }
  }
}

// This block's tokens: a run of them.
struct Run {
  int begin, end;
};

__device__ __forceinline__ Run own_tokens(const Team& team, int n) {
  const int each = (n + team.size - 1) / team.size;
  return {min(n, team.rank * each), min(n, (team.rank + 1) * each)};
}

// Every block's copy of the scores, in place of the exchange; and of what stays.
__device__ __forceinline__ float* shared_scores(const Shared& s) {
  return reinterpret_cast<float*>(s.steps.results);
}

// scores [n]: squared row norms of vectors [columns, stride], or what they lack to 1; to global memory
// and to all blocks. Sums in float64: each warp takes every `warps`-th vector, then the warps in order.
__device__ __forceinline__ void send_leverage(const Team& team, const Shared& s, int columns,
                                              bool complement, const float* vectors, int stride,
                                              float* scores) {
  const Run own = own_tokens(team, s.n);
  const int count = own.end - own.begin;
  double* const partial = reinterpret_cast<double*>(s.work);
  for (int t = team.lane; t < count; t += 32) {
    double sum = 0;
    for (int j = team.warp; j < columns; j += team.warps) {
      const double value = __ldcg(vectors + j * stride + own.begin + t);
      sum += value * value;
    }
    partial[team.warp * count + t] = sum;
  }
  __syncthreads();
  for (int t = team.warp; t < count; t += team.warps) {
    double sum = 0;
    for (int warp = 0; warp < team.warps; ++warp) {
      sum += partial[warp * count + t];
    }
    const double score = fmin(fmax(complement ? 1 - sum : sum, 0.0), 1.0);
    tell_all(team, shared_scores(s) + own.begin + t, static_cast<float>(score));
    if (team.lane == 0) {
      scores[own.begin + t] = static_cast<float>(score);
    }
  }
}

// The same score for every token.
__device__ __forceinline__ void send_score(const Team& team, const Shared& s, float score,
                                           float* scores) {
  const Run own = own_tokens(team, s.n);
  for (int i = own.begin + team.warp; i < own.end; i += team.warps) {
    tell_all(team, shared_scores(s) + i, score);
    if (team.lane == 0) {
      scores[i] = score;
    }
  }
}

}  // namespace svdprune::cuda
