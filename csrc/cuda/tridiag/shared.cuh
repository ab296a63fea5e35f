// What a block of the kernel eig_select keeps in shared memory, and how much that is.
//
// Rows of the matrix are dealt to the blocks of a cluster in turns (row i to block i % C, as its slot i / C), so
// that the work shrinks evenly as rows are done with. The first slots are in registers (HeldRows), the others in
// shared memory. Everything else is held by every block alike.
#pragma once

#include "../../host_device.h"
#include "team.cuh"

#include <cstddef>

namespace svdprune::cuda {

constexpr int kMostTokens = 1024;   // that fit on chip, with rows dealt to 16 blocks
constexpr int kStaged = 32;         // reflectors on the way back that there is room for
constexpr int kVectorsAtOnce = 12;  // of T, likewise

// Of the kernel for up to 32 `columns` tokens: threads of a block at most, and rows for which a warp has registers.
SVDPRUNE_HOST_DEVICE constexpr int most_threads(int columns) {
  return columns <= 18 ? 32 * kMostWarps : 16 * kMostWarps;
}
SVDPRUNE_HOST_DEVICE constexpr int held_rows(int columns) {
  return columns <= 18 ? 2 : columns <= 24 ? 4 : 3;
}

// A row's product y_i, and its entry of the next column.
struct alignas(8) RowResult {
  float product, column;
};

// How much of it an image of n tokens takes, in the kernel for up to 32 `columns` tokens.
struct SharedSizes {
  int capacity;
  int row_length;     // n rounded up to whole float4
  size_t work_bytes;  // a block's rows that are not in registers, and what comes after them

  SVDPRUNE_HOST_DEVICE SharedSizes(int columns, int n, int blocks, int warps)
      : capacity(32 * columns), row_length((n + 3) / 4 * 4) {
    const int all = (n + blocks - 1) / blocks, held = held_rows(columns) * warps;
    const size_t rows = all > held ? all - held : 0;
    const size_t vectors = warps < kVectorsAtOnce ? warps : kVectorsAtOnce;
    // After the reduction there are vectors of n rows, the tokens' partial scores, or reflectors on the way back.
    work_bytes = sizeof(float) * kMostTokens;
    for (const size_t bytes :
         {sizeof(float) * row_length * rows, sizeof(double) * 2 * (n + 1) * vectors,
          sizeof(double) * warps * all, sizeof(float) * row_length * kStaged}) {
      work_bytes = bytes > work_bytes ? bytes : work_bytes;
    }
    work_bytes = (work_bytes + 15) / 16 * 16;
  }

  SVDPRUNE_HOST_DEVICE size_t vectors_bytes() const {
    return sizeof(float) * kMostTokens * 3;
  }
  SVDPRUNE_HOST_DEVICE size_t total_bytes() const {
    const size_t doubles = 4 * capacity + capacity / 2 + 2 * kMostWarps + 3 * kMostCluster;
    return vectors_bytes() + 2 * sizeof(RowResult) * capacity + sizeof(double) * doubles +
           work_bytes;
  }
};

// Pointers into it, for an image of n tokens. Their places depend on the kernel alone, so that they need no
// registers.
struct Shared {
  int n, row_length;
  int held;                // slots in registers
  float *v, *next_v, *w;   // [kMostTokens], zero from n on: the pending reflector and its w, and
                           // the next reflector
  RowResult* exchange[2];  // [n]: of even and of odd steps
  double *diagonal, *coupling;  // [n]: T; coupling[k] joins k and k + 1
  double* tau;                  // [n]: of the reflectors
  double* ritz;                 // [n], descending
  double* residual;             // [n / 2]
  double* partial[2];           // [kMostWarps] each, for block_sum
  double *trace, *square;       // [C] each: of the blocks' parts of the remainder
  double* word;                 // [C]
  float* rows;                  // [.., row_length]: the slots after those in registers
  unsigned char* work;          // their memory, once the matrix is done with
  size_t work_bytes;
};

template <int kColumns>
__device__ __forceinline__ Shared carve(const Team& team, int n) {
  const SharedSizes sizes(kColumns, n, team.size, team.warps);
  unsigned char* at = dynamic_shared();
  const auto take = [&at](size_t bytes) {
    unsigned char* const start = at;
    at += bytes;
    return start;
  };
  const auto doubles = [&take](size_t count) {
    return reinterpret_cast<double*>(take(count * sizeof(double)));
  };
  constexpr int kCapacity = 32 * kColumns;
  Shared s;
  s.n = n;
  s.row_length = sizes.row_length;
  s.held = held_rows(kColumns) * team.warps;
  float* const vectors = reinterpret_cast<float*>(take(sizes.vectors_bytes()));
  s.v = vectors;
  s.next_v = vectors + kMostTokens;
  s.w = vectors + 2 * kMostTokens;
  s.exchange[0] = reinterpret_cast<RowResult*>(take(sizeof(RowResult) * kCapacity));
  s.exchange[1] = reinterpret_cast<RowResult*>(take(sizeof(RowResult) * kCapacity));
  s.diagonal = doubles(kCapacity);
  s.coupling = doubles(kCapacity);
  s.tau = doubles(kCapacity);
  s.ritz = doubles(kCapacity);
  s.residual = doubles(kCapacity / 2);
  s.partial[0] = doubles(kMostWarps);
  s.partial[1] = doubles(kMostWarps);
  s.trace = doubles(kMostCluster);
  s.square = doubles(kMostCluster);
  s.word = doubles(kMostCluster);
  s.work = at;
  s.work_bytes = sizes.work_bytes;
  s.rows = reinterpret_cast<float*>(s.work);
  for (int warp = team.thread; warp < kMostWarps; warp += team.threads) {
    s.partial[0][warp] = s.partial[1][warp] = 0;
  }
  return s;
}

// Slots of this block's rows from `first` on.
__device__ __forceinline__ int first_slot(const Team& team, int first) {
  return first > team.rank ? (first - team.rank + team.size - 1) / team.size : 0;
}

__device__ __forceinline__ int slot_count(const Team& team, int n) {
  return (n - team.rank + team.size - 1) / team.size;
}

// The row in a slot that is not in registers.
__device__ __forceinline__ float* row_of_slot(const Shared& s, int slot) {
  return s.rows + (slot - s.held) * s.row_length;
}

}  // namespace svdprune::cuda
