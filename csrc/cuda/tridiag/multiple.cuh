// Eigenvectors of T_m by the implicit QL iteration, for spectra with multiple eigenvalues. Slow: a
// sweep is one thread's, and there are about two an eigenvalue.
#pragma once

#include "rotations.h"
#include "vectors.cuh"

namespace svdprune::cuda {

constexpr int kMostSweeps = 60;  // an eigenvalue; about 2 are needed

// Rows of Z that are worked on together, in place of the matrix: of this block's, which are every C-th one, the
// begin-th to the end-th.
struct RowsOfZ {
  int begin, end;
  float* z;
};

// One sweep by thread 0 of every block, then each thread turns its own row of Z.
__device__ __forceinline__ void turn_rows(const Team& team, const Shared& s, const RowsOfZ& rows,
                                          int first, int last, double* cosine, double* sine) {
  if (team.thread == 0) {
    tridiag::ql_sweep(s.diagonal, s.coupling, first, last, cosine, sine);
  }
  __syncthreads();
  for (int slot = rows.begin + team.thread; slot < rows.end; slot += team.threads) {
    float* const z = rows.z + (slot - rows.begin) * s.steps.capacity;
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

// Diagonalises T, with these rows of Z. False if an eigenvalue did not converge.
__device__ __forceinline__ bool iterate(const Team& team, const Shared& s, int m,
                                        const RowsOfZ& rows) {
  double* const cosine = reinterpret_cast<double*>(s.steps.results);
  double* const sine = reinterpret_cast<double*>(s.steps.results + s.steps.capacity);
  for (int slot = rows.begin + team.warp; slot < rows.end; slot += team.warps) {
    for (int j = team.lane; j < m; j += 32) {
      rows.z[(slot - rows.begin) * s.steps.capacity + j] = j == slot * team.size + team.rank;
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
      turn_rows(team, s, rows, row, last, cosine, sine);
    }
  }
  return true;
}

// The rows' entries of vectors [columns, stride], those whose eigenvalues come at places first .. in descending
// order. The column of an eigenvalue goes to its place; equal ones in their own order.
__device__ __forceinline__ void write_in_order(const Team& team, const Shared& s, int m,
                                               const RowsOfZ& rows, int first, int columns,
                                               float* vectors, int stride) {
  for (int j = team.warp; j < m; j += team.warps) {
    int place = 0;
    for (int i = team.lane; i < m; i += 32) {
      place += s.diagonal[i] > s.diagonal[j] || (s.diagonal[i] == s.diagonal[j] && i < j);
    }
    place = warp_sum(place) - first;
    if (place < 0 || place >= columns) {
      continue;
    }
    for (int slot = rows.begin + team.lane; slot < rows.end; slot += 32) {
      vectors[place * stride + slot * team.size + team.rank] =
          rows.z[(slot - rows.begin) * s.steps.capacity + j];
    }
  }
}

// vectors [columns, stride]: orthogonal unit eigenvectors of T_m, those whose eigenvalues come at
// places first .. in descending order; zeros from m to n. Consumes T and the rows, whose place Z's
// rows take, as many at a time as fit: each time from a copy of T anew. False if an eigenvalue did not converge.
// All blocks iterate alike.
__device__ __forceinline__ bool write_orthogonal_vectors(const Team& team, const Shared& s, int m,
                                                         int first, int columns, float* vectors,
                                                         int stride) {
  double* const copy = reinterpret_cast<double*>(s.work + work_bytes(s)) - 2 * m;
  const size_t room = work_bytes(s) - sizeof(double) * 2 * m;
  const int fitting = static_cast<int>(room / (sizeof(float) * s.steps.capacity));
  for (int i = team.thread; i < m; i += team.threads) {
    copy[i] = s.diagonal[i];
    copy[m + i] = s.coupling[i];
  }
  for (int begin = 0; begin * team.size < m; begin += fitting) {
    __syncthreads();
    for (int i = team.thread; i < m; i += team.threads) {
      s.diagonal[i] = copy[i];
      s.coupling[i] = copy[m + i];
    }
    const RowsOfZ rows{begin, min(begin + fitting, (m - team.rank + team.size - 1) / team.size),
                       reinterpret_cast<float*>(s.work)};
    if (!iterate(team, s, m, rows)) {
      return false;
    }
    write_in_order(team, s, m, rows, first, columns, vectors, stride);
  }
  for (int j = team.warp; j < columns; j += team.warps) {
    for (int row = m + team.rank + team.size * team.lane; row < s.n; row += 32 * team.size) {
      vectors[j * stride + row] = 0;
    }
  }
  return true;
}

}  // namespace svdprune::cuda
