// What a block of the kernel eig_select keeps in shared memory, and how much that is.
#pragma once

#include "../../check_schedule.h"
#include "../../hidden_eigenvalues.h"
#include "../../host_device.h"
#include "layout.cuh"

#include <cstddef>

namespace svdprune::cuda {

constexpr int kMostTokens = 1024;  // that fit on chip, with rows dealt to 16 blocks
constexpr int kStaged = 32;        // reflectors on the way back that there is room for

// A row's product y_i, and its entry of the next column.
struct alignas(8) RowResult {
  float product, column;
};

// A row's entries of the update A -= v w^T + w v^T.
struct alignas(8) Pending {
  float v, w;
};

// An image's matrix, and what is asked of it: as many directions as hold `variance` of `trace`, or as many as `rank`,
// if it is not 0.
struct Problem {
  double trace, variance;
  const float* gram;  // [n, stride]
  float* reflectors;  // [n, stride], perhaps in place of it
  float* vectors;     // [n / 2 + 1, stride]
  int stride, rank;
  bool may_hand_over;  // if the spectrum is flat
  CheckSchedule looks;
};

// Of the probe, which thread 0 takes on.
struct Probing {
  Probe probe;
  Probed found;
};

// What `carve` deals out before the work memory.
SVDPRUNE_HOST_DEVICE constexpr size_t bytes_before_work(int capacity) {
  const size_t doubles = 5 * capacity + capacity / 2 + 2 + 6 * kMostWarps + 2 * kMostCluster;
  return sizeof(float) * capacity + (sizeof(Pending) + 2 * sizeof(RowResult)) * capacity +
         sizeof(double) * doubles + sizeof(Arrivals) * 4 + sizeof(Problem) + sizeof(Probing);
}

// How much of it an image of n tokens takes, in the kernel for up to 32 `columns` tokens.
struct SharedSizes {
  int capacity;
  size_t work_bytes;  // a block's rows that are not in registers, and what comes after them

  SharedSizes(int columns, int held, int n, int blocks, int warps)
      : capacity(padded_length(columns, 32 * warps)) {
    const int pairs = (group_count(n) + warps - 1) / warps * (16 / blocks);  // of a warp, at most
    const size_t rows = pairs > held ? 2 * (pairs - held) * warps : 0;
    const size_t vector = sizeof(double) * 2 * (n + 1);
    // After the reduction there are vectors of n rows, the tokens' partial scores, or reflectors on the way back.
    work_bytes = 0;
    for (const size_t bytes : {sizeof(float) * 32 * columns * rows, vector * warps,
                               sizeof(double) * warps * ((n + blocks - 1) / blocks),
                               sizeof(float) * capacity * kStaged}) {
      work_bytes = bytes > work_bytes ? bytes : work_bytes;
    }
    work_bytes = (work_bytes + 15) / 16 * 16;
  }

  size_t total_bytes() const {
    return bytes_before_work(capacity) + work_bytes;
  }
};

// Two buffers that take turns with what each round brings from all blocks, see Note [one exchange a step].
template <class T>
struct Exchange {
  T* results;  // [2, capacity]: what each row gave
  int capacity;
  Arrivals* arrivals;  // [2]
  unsigned rounds;     // that have begun
};

// Pointers into it, for an image of n tokens. Their places are known to the kernel, so that they need no registers.
struct Shared {
  int n;
  Pending* pending;  // [capacity], zero from n on: of the update that the next sweep applies
  float* v;          // [capacity], zero from n on: the newest reflector
  Problem* problem;  // here, as registers are short
  Probing* probing;
  Exchange<RowResult> steps;
  Exchange<float> probe;        // whose results are put elsewhere, each time it begins
  double *diagonal, *coupling;  // [n]: T; coupling[k] joins k and k + 1
  double* squares;              // [n]: squares[k + 1] of coupling[k], for Sturm counts
  double* tau;                  // [n]: of the reflectors
  double* ritz;                 // [n], descending
  double* residual;             // [n / 2 + 1]
  double* partial[2];           // [kMostWarps] each, for block_sum
  double* sums;                 // [4, kMostWarps], for block_sums
  double* word;                 // [C]
  double* remainder;            // [C]: of the blocks' parts of it, the squared norm
  float* rows;                  // [.., 32 kColumns]: those that are not in registers
  unsigned char* work;          // their memory, once the matrix is done with
};

__device__ __forceinline__ size_t work_bytes(const Shared& s) {
  return dynamic_shared_bytes() - bytes_before_work(s.steps.capacity);
}

template <int kColumns>
__device__ __forceinline__ Shared carve(const Team& team, int n) {
  unsigned char* at = dynamic_shared();
  const auto take = [&at](size_t bytes) {
    unsigned char* const start = at;
    at += bytes;
    return start;
  };
  const auto doubles = [&take](size_t count) {
    return reinterpret_cast<double*>(take(count * sizeof(double)));
  };
  const auto arrivals = [&take] { return reinterpret_cast<Arrivals*>(take(2 * sizeof(Arrivals))); };
  const int capacity = padded_length(kColumns, team.threads);
  Shared s;
  s.n = n;
  s.pending = reinterpret_cast<Pending*>(take(sizeof(Pending) * capacity));
  s.v = reinterpret_cast<float*>(take(sizeof(float) * capacity));
  s.steps.results = reinterpret_cast<RowResult*>(take(2 * sizeof(RowResult) * capacity));
  s.steps.capacity = s.probe.capacity = capacity;
  s.partial[0] = doubles(kMostWarps);
  s.partial[1] = doubles(kMostWarps);
  s.sums = doubles(4 * kMostWarps);
  s.diagonal = doubles(capacity);
  s.coupling = doubles(capacity);
  s.squares = doubles(capacity);
  s.tau = doubles(capacity);
  s.ritz = doubles(capacity);
  s.residual = doubles(capacity / 2 + 2);
  s.word = doubles(kMostCluster);
  s.remainder = doubles(kMostCluster);
  s.steps.arrivals = arrivals();
  s.probe.arrivals = arrivals();
  s.steps.rounds = s.probe.rounds = 0;
  s.problem = reinterpret_cast<Problem*>(take(sizeof(Problem)));
  s.probing = reinterpret_cast<Probing*>(take(sizeof(Probing)));
  s.work = at;
  s.rows = reinterpret_cast<float*>(s.work);
  for (int i = team.thread; i < 6 * kMostWarps; i += team.threads) {
    s.partial[0][i] = 0;  // and what lies behind it
  }
  if (team.thread == 0) {
    s.squares[0] = 0;
    for (int buffer = 0; buffer < 2; ++buffer) {
      start_arrivals(s.steps.arrivals + buffer);
      start_arrivals(s.probe.arrivals + buffer);
    }
  }
  return s;
}

}  // namespace svdprune::cuda
