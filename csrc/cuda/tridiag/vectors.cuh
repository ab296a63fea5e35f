// Eigenvectors of T_m: a warp a vector, by twisted factorisations. Short loops are not unrolled: code that runs once takes
// its time to be fetched.
#pragma once

#include "shared.cuh"
#include "twisted.h"

namespace svdprune::cuda {

// A unit vector of T_m, spread over down and up [m]; see twisted_entry.
struct TwistedVector {
  double *down, *up;
  int twist;
  double scale;  // 1 / ||z||

  __device__ double operator()(int i) const {
    return scale * tridiag::twisted_entry(down, up, twist, i);
  }
};

// By one warp: two lanes work from the two ends, all look for the row where they meet best.
__device__ __forceinline__ TwistedVector twisted_vector(const Team& team, const Shared& s, int m,
                                                        double x, double* room) {
  TwistedVector z{room, room + m, 0, 0};
  if (team.lane < 2) {
    tridiag::twisted_ratios(s.diagonal, s.coupling, m, x, team.lane == 1,
                            team.lane == 1 ? z.up : z.down);
  }
  __syncwarp();
  double smallest = INFINITY;
#pragma unroll 1
  for (int k = team.lane; k < m; k += 32) {
    const double gamma =
        fabs(tridiag::twist_residual(s.diagonal, s.coupling, m, x, z.down, z.up, k));
    if (gamma < smallest) {
      smallest = gamma;
      z.twist = k;
    }
  }
  for (int apart = 16; apart > 0; apart /= 2) {
    const double other = __shfl_xor_sync(kAllLanes, smallest, apart);
    const int row = __shfl_xor_sync(kAllLanes, z.twist, apart);
    if (other < smallest || (other == smallest && row < z.twist)) {
      smallest = other;
      z.twist = row;
    }
  }
  __syncwarp();  // all lanes have read what two of them now write
  if (team.lane < 2) {
    tridiag::twisted_half(m, z.twist, team.lane == 1, team.lane == 1 ? z.up : z.down);
  }
  __syncwarp();
  double square = 0;
#pragma unroll 1
  for (int i = team.lane; i < m; i += 32) {
    const double value = tridiag::twisted_entry(z.down, z.up, z.twist, i);
    square += value * value;
  }
  z.scale = 1 / sqrt(warp_sum(square));
  return z;
}

// Warps that have room [2 m] of `count` doubles for a vector.
__device__ __forceinline__ int warps_with_room(const Team& team, int m, size_t count) {
  const size_t fitting = count / (2 * m);
  return fitting < static_cast<size_t>(team.warps) ? static_cast<int>(fitting) : team.warps;
}

// Unit eigenvectors of T_m for ritz[first ..] to vectors [columns, stride], zeros from m to n; and, for m < n, what they
// miss as vectors of the whole, e_m times the last entry, squared, to s.residual of all blocks: columns <= n / 2 then.
// room [size]: for a vector at least.
__device__ __forceinline__ void write_vectors(Team team, const Shared& s, int m, int first,
                                              int columns, double* room, size_t size) {
  forget_derived(team);
  const int warps = warps_with_room(team, m, size);
  for (int j = team.rank + team.size * team.warp; team.warp < warps && j < columns;
       j += team.size * warps) {
    const TwistedVector z = twisted_vector(team, s, m, s.ritz[first + j], room + 2 * m * team.warp);
    float* const vector = s.problem->vectors + j * s.problem->stride;
#pragma unroll 1
    for (int i = team.lane; i < s.n; i += 32) {
      vector[i] = i < m ? static_cast<float>(z(i)) : 0;
    }
    if (m < s.n) {
      const double residual = s.coupling[m - 1] * z(m - 1);
      tell_all(team, s.residual + j, residual * residual);
    }
    __syncwarp();
  }
}

// Vectors of eigenvalues nearer to each other than this are looked at; farther ones are orthogonal to
// about eps / kClose.
constexpr double kClose = 1e-8;    // of the largest eigenvalue
constexpr double kOverlap = 1e-5;  // cosine of two vectors that are taken for orthogonal

// Whether the vectors are orthogonal: twisted vectors of a multiple eigenvalue are not. The same in
// all blocks; sums over one warp.
__device__ __forceinline__ bool separated(const Team& team, const Shared& s, int first, int columns,
                                          const float* vectors, int stride) {
  const double close = kClose * s.ritz[0];
  bool met = false;
  for (int j = team.rank + team.size * team.warp; j < columns; j += team.size * team.warps) {
    const float* own = vectors + j * stride;
    for (int i = j - 1; i >= 0 && !met && s.ritz[first + i] - s.ritz[first + j] < close; --i) {
      const float* other = vectors + i * stride;
      double overlap = 0;
#pragma unroll 1
      for (int k = team.lane; k < s.n; k += 32) {
        overlap += static_cast<double>(__ldcg(own + k)) * __ldcg(other + k);
      }
      met = !(fabs(warp_sum(overlap)) < kOverlap);
    }
  }
  const double any = block_sum(team, met, s.partial[0]);
  if (team.warp == 0) {
    tell_all(team, s.word + team.rank, any);
  }
  cluster_sync();
  bool all_apart = true;
  for (int block = 0; block < team.size; ++block) {
    all_apart = all_apart && s.word[block] == 0;
  }
  return all_apart;
}

}  // namespace svdprune::cuda
