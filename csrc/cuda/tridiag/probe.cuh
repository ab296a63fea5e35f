// Whether an eigenvalue hides in what remains: the probe of Note [hidden eigenvalues] in
// ../../hidden_eigenvalues.h, on a cluster. Every block takes the Lanczos steps alike.
#pragma once

#include "../../hidden_eigenvalues.h"
#include "reduce.cuh"

namespace svdprune::cuda {

// The matrix from row and column m on, with no update pending. Rows that a step holds in registers stand in
// `parked` [n, stride] meanwhile.
struct Remainder {
  int m;
  const float* parked;
  int64_t stride;

  __device__ __forceinline__ const float* row(const Team& team, const Shared& s, int slot) const {
    return slot < s.held ? parked + (slot * team.size + team.rank) * stride : row_of_slot(s, slot);
  }
};

// This block's rows times q, to all blocks.
__device__ __forceinline__ void send_products(const Team& team, const Shared& s,
                                              const Remainder& remainder, const float* q,
                                              float* product) {
  for (int slot = first_slot(team, remainder.m) + team.warp; slot < slot_count(team, s.n);
       slot += team.warps) {
    const float* const row = remainder.row(team, s, slot);
    float sum = 0;
#pragma unroll 8
    for (int j = remainder.m + team.lane; j < s.n; j += 32) {
      sum += row[j] * q[j];
    }
    tell_all(team, product + slot * team.size + team.rank, warp_sum(sum));
  }
}

// The probe's first vector, of unit length, in q [n]; zeros before m. Returns the squared
// norm that it had.
__device__ __forceinline__ double fill_probe(const Team& team, const Shared& s, int m, float* q) {
  double own = 0;
  for (int i = team.thread; i < s.n; i += team.threads) {
    q[i] = i >= m ? static_cast<float>(probe_entry(i - m)) : 0;
    own += static_cast<double>(q[i]) * q[i];
  }
  const double square = block_sum(team, own, s.partial[0]);
  const auto scale = static_cast<float>(1 / sqrt(square));
  for (int i = team.thread; i < s.n; i += team.threads) {
    q[i] *= scale;
  }
  return square;
}

// True: no eigenvalue lies above `limit`. v and w are free, as no update is pending, and so is what the next step
// exchanges.
__device__ __forceinline__ bool probe_misses(const Team& team, const Shared& s,
                                             const Remainder& remainder, double limit) {
  const int m = remainder.m;
  float *const q = s.v, *const before = s.w;
  for (int i = team.thread; i < s.n; i += team.threads) {
    before[i] = 0;
  }
  Probe probe{fill_probe(team, s, m, q), limit};
  Probed found = Probed::kOpen;
  for (int step = 0; step < Probe::kMostSteps && found == Probed::kOpen; ++step) {
    __syncthreads();
    float* const product = reinterpret_cast<float*>(exchange_of(s, m)) + step % 2 * s.n;
    send_products(team, s, remainder, q, product);
    cluster_sync();
    double own = 0;
    for (int i = team.thread; i < s.n; i += team.threads) {
      own += i >= m ? static_cast<double>(q[i]) * product[i] : 0;
    }
    const double alpha = block_sum(team, own, s.partial[0]);
    const auto along = static_cast<float>(alpha), back = static_cast<float>(probe.beta_before);
    own = 0;
    for (int i = team.thread; i < s.n; i += team.threads) {
      const float next = i >= m ? product[i] - (along * q[i] + back * before[i]) : 0;
      before[i] = q[i];
      q[i] = next;
      own += static_cast<double>(next) * next;
    }
    const double beta = sqrt(block_sum(team, own, s.partial[1]));
    const auto inverse = static_cast<float>(1 / beta);
    for (int i = team.thread; i < s.n; i += team.threads) {
      q[i] *= inverse;
    }
    found = probe.step(alpha, beta);
  }
  cluster_sync();  // all blocks have read the last products
  return found == Probed::kNoneHidden;
}

}  // namespace svdprune::cuda
