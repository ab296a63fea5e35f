// Eigenvectors of T_m by the implicit QL iteration, for spectra with multiple eigenvalues. Slow: a
// sweep is one thread's, and there are about two an eigenvalue.
#pragma once

#include "reduce.cuh"
#include "rotations.h"
#include "vectors.cuh"

namespace svdprune::cuda {

constexpr int kMostSweeps = 60;  // an eigenvalue; about 2 are needed

// One sweep by thread 0 of every block, then each thread turns its own row of Z.
__device__ __forceinline__ void turn_rows(const Team& team, const Shared& s, int m, int first,
                                          int last, double* cosine, double* sine) {
  if (team.thread == 0) {
    tridiag::ql_sweep(s.diagonal, s.coupling, first, last, cosine, sine);
  }
  __syncthreads();
  for (int slot = team.thread; slot < slot_count(team, m); slot += team.threads) {
    float* const z = s.rows + slot * s.row_length;
    float right = z[last];
    for (int i = last - 1; i >= first; --i) {
      const float c = static_cast<float>(cosine[i]), sn = static_cast<float>(sine[i]);
      const float left = z[i];
      z[i + 1] = sn * left + c * right;
      right = c * left - sn * right;
    }
    z[first] = right;
  }
  __syncthreads();
}

// vectors [columns, stride]: orthogonal unit eigenvectors of T_m, those whose eigenvalues come at
// places first .. in descending order; zeros from m to n. Consumes T and the rows, whose place Z's
// rows take. False if an eigenvalue did not converge. All blocks iterate alike.
__device__ __forceinline__ bool write_orthogonal_vectors(const Team& team, const Shared& s, int m,
                                                         int first, int columns, float* vectors,
                                                         int64_t stride) {
  double* const cosine = reinterpret_cast<double*>(s.exchange);
  double* const sine = cosine + s.n;
  for (int slot = team.warp; slot < slot_count(team, m); slot += team.warps) {
    for (int j = team.lane; j < m; j += 32) {
      s.rows[slot * s.row_length + j] = j == slot * team.size + team.rank;
    }
  }
  __syncthreads();
  const double negligible = tridiag::kEpsilon * s.ritz[0];
  for (int row = 0; row < m; ++row) {
    for (int sweep = 0;; ++sweep) {
      const int last = tridiag::joined_until(s.coupling, m, row, negligible);
      if (last == row) {
        break;
      }
      if (sweep == kMostSweeps) {
        return false;
      }
      __syncthreads();
      turn_rows(team, s, m, row, last, cosine, sine);
    }
  }
  // The column of an eigenvalue goes to its place in the order; equal ones in their own order.
  for (int j = team.warp; j < m; j += team.warps) {
    int place = 0;
    for (int i = team.lane; i < m; i += 32) {
      place += s.diagonal[i] > s.diagonal[j] || (s.diagonal[i] == s.diagonal[j] && i < j);
    }
    place = warp_sum(place) - first;
    if (place < 0 || place >= columns) {
      continue;
    }
    for (int row = team.rank + team.size * team.lane; row < s.n; row += 32 * team.size) {
      vectors[place * stride + row] = row < m ? s.rows[row / team.size * s.row_length + j] : 0;
    }
  }
  return true;
}

}  // namespace svdprune::cuda
