// What a block of the kernel eig_select keeps in shared memory, and how much that is.
//
// Rows of the matrix are dealt to the blocks of a cluster in turns (row i to block i % C), so that
// the work shrinks evenly as rows are done with. Everything else is held by every block alike.
#pragma once

#include "../../host_device.h"
#include "team.cuh"

#include <cstddef>

namespace svdprune::cuda {

constexpr int kMostTokens = 768;  // that fit on chip, with rows dealt to 16 blocks

// A row's product y_i, and its entry of the next column.
struct alignas(8) RowResult {
  float product, column;
};

// Of images with up to n tokens, on clusters of `blocks` blocks.
struct SharedSizes {
  int row_length;     // n rounded up to whole float4
  int rows;           // a block's rows
  size_t work_bytes;  // the block's rows, and behind them scratch that is free from the start

  SVDPRUNE_HOST_DEVICE SharedSizes(int n, int blocks, int warps)
      : row_length((n + 3) / 4 * 4), rows((n + blocks - 1) / blocks) {
    // At a check one vector of at most n / 2 rows is on its way besides the matrix; afterwards one of
    // n rows, or the tokens' partial scores, or reflectors on the way back.
    work_bytes = sizeof(float) * kMostTokens;
    for (const size_t bytes : {row_bytes() + sizeof(double) * (n + 2), sizeof(double) * 2 * (n + 1),
                               sizeof(double) * warps * rows}) {
      work_bytes = bytes > work_bytes ? bytes : work_bytes;
    }
    work_bytes = (work_bytes + 15) / 16 * 16;
  }

  SVDPRUNE_HOST_DEVICE size_t row_bytes() const {
    return sizeof(float) * row_length * rows;
  }
  SVDPRUNE_HOST_DEVICE size_t vectors_bytes() const {
    return sizeof(float) * kMostTokens * 3;
  }
  SVDPRUNE_HOST_DEVICE size_t total_bytes(int n) const {
    const size_t doubles = 3 * n + (n + 1) / 2 + 2 * kMostWarps + 2 * kMostCluster + kMostCluster;
    const size_t floats = 2 * ((n + 1) / 2);
    return work_bytes + vectors_bytes() + 2 * sizeof(RowResult) * n + sizeof(double) * doubles +
           sizeof(float) * floats;
  }
};

// Pointers into it, for an image of n tokens.
struct Shared {
  int n, row_length;
  float* rows;      // [rows, row_length]; slot s holds row s C + rank
  double* scratch;  // behind the rows; the rows' own memory is `work` once they are done with
  size_t scratch_count;
  unsigned char* work;
  size_t work_bytes;
  float *v, *next_v, *w;  // [kMostTokens], zero from n on: the pending reflector and its w, and
                          // the next reflector
  RowResult* exchange;    // [2, n]: of even and of odd steps
  double *diagonal, *coupling;  // [n]: T; coupling[k] joins k and k + 1
  double* ritz;                 // [n], descending
  double* residual;             // [n / 2]
  double* partial[2];           // [kMostWarps] each, for block_sum
  double *trace, *square;       // [C] each: of the blocks' parts of the remainder
  double* word;                 // [C]
  float* tau;                   // [n]
};

__device__ __forceinline__ Shared carve(const Team& team, int n) {
  const SharedSizes sizes(n, team.size, team.warps);
  unsigned char* at = dynamic_shared();
  const auto take = [&at](size_t bytes) {
    unsigned char* const start = at;
    at += bytes;
    return start;
  };
  const auto doubles = [&take](size_t count) {
    return reinterpret_cast<double*>(take(count * sizeof(double)));
  };
  Shared s;
  s.n = n;
  s.row_length = sizes.row_length;
  s.work = take(sizes.work_bytes);
  s.work_bytes = sizes.work_bytes;
  s.rows = reinterpret_cast<float*>(s.work);
  s.scratch = reinterpret_cast<double*>(s.work + sizes.row_bytes());
  s.scratch_count = (sizes.work_bytes - sizes.row_bytes()) / sizeof(double);
  float* const vectors = reinterpret_cast<float*>(take(sizes.vectors_bytes()));
  s.v = vectors;
  s.next_v = vectors + kMostTokens;
  s.w = vectors + 2 * kMostTokens;
  s.exchange = reinterpret_cast<RowResult*>(take(2 * sizeof(RowResult) * n));
  s.diagonal = doubles(n);
  s.coupling = doubles(n);
  s.ritz = doubles(n);
  s.residual = doubles((n + 1) / 2);
  s.partial[0] = doubles(kMostWarps);
  s.partial[1] = doubles(kMostWarps);
  s.trace = doubles(kMostCluster);
  s.square = doubles(kMostCluster);
  s.word = doubles(kMostCluster);
  s.tau = reinterpret_cast<float*>(take(sizeof(float) * n));
  for (int warp = team.thread; warp < kMostWarps; warp += team.threads) {
    s.partial[0][warp] = s.partial[1][warp] = 0;
  }
  return s;
}

}  // namespace svdprune::cuda
