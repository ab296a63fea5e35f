// From eigenvectors of T_m to leverage scores: the way back through the reflectors, then squared row
// norms.
#pragma once

#include "shared.cuh"

namespace svdprune::cuda {

// A vector of n <= 32 kColumns numbers, by a warp: lane l has entries l, l + 32, ...
template <int kColumns>
__device__ __forceinline__ void load_column(const Team& team, int n, const float* from,
                                            float (&column)[kColumns]) {
#pragma unroll
  for (int q = 0; q < kColumns; ++q) {
    const int i = 32 * q + team.lane;
    column[q] = i < n ? __ldcg(from + i) : 0;
  }
}

// vectors [columns, stride] <- H_0 H_1 ... H_count-1 vectors, a warp a vector, which stays in
// registers; reflectors [count, stride] come from L2, the next one on its way while one is applied.
// Sums in float32.
template <int kColumns>
__device__ __forceinline__ void apply_reflectors(const Team& team, const Shared& s, int count,
                                                 int columns, const float* reflectors,
                                                 float* vectors, int64_t stride) {
  for (int j = team.rank + team.size * team.warp; j < columns; j += team.size * team.warps) {
    float z[kColumns], v[kColumns], next[kColumns];
    load_column(team, s.n, vectors + j * stride, z);
    if (count > 0) {
      load_column(team, s.n, reflectors + (count - 1) * stride, v);
    }
    for (int k = count - 1; k >= 0; --k) {
      if (k > 0) {
        load_column(team, s.n, reflectors + (k - 1) * stride, next);
      }
      float dot = 0;
#pragma unroll
      for (int q = 0; q < kColumns; ++q) {
        dot += v[q] * z[q];
      }
      const float factor = s.tau[k] * warp_sum(dot);
#pragma unroll
      for (int q = 0; q < kColumns; ++q) {
        z[q] -= factor * v[q];
        v[q] = next[q];
      }
    }
#pragma unroll
    for (int q = 0; q < kColumns; ++q) {
      const int i = 32 * q + team.lane;
      if (i < s.n) {
        vectors[j * stride + i] = z[q];
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
  return reinterpret_cast<float*>(s.exchange);
}

// scores [n]: squared row norms of vectors [columns, stride], or what they lack to 1; to global memory
// and to all blocks. Sums in float64: each warp takes every `warps`-th vector, then the warps in order.
__device__ __forceinline__ void send_leverage(const Team& team, const Shared& s, int columns,
                                              bool complement, const float* vectors, int64_t stride,
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
