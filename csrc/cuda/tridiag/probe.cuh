// Whether an eigenvalue hides in what remains: the probe of Note [hidden eigenvalues] in
// ../../hidden_eigenvalues.h, on a cluster. Every block takes the Lanczos steps alike.
#pragma once

#include "reduce.cuh"

namespace svdprune::cuda {

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

// True: no eigenvalue of what remains from row and column m on lies above `limit`. No update is pending, so v and w
// are free, and so is what the next step exchanges.
template <int kColumns>
__device__ __forceinline__ bool probe_misses(Team team, Shared& s, const Rows<kColumns>& rows,
                                             int m, double limit) {
  forget_derived(team);
  float *const q = s.v, *const before = s.w;
  s.probe.results = reinterpret_cast<float*>(free_buffer(s.steps));
  for (int i = team.thread; i < s.n; i += team.threads) {
    before[i] = 0;
  }
  const double square = fill_probe(team, s, m, q);
  if (team.thread == 0) {
    *s.probing = {Probe{square, limit}, Probed::kOpen};
  }
  float back = 0;
  for (int step = 0;; ++step) {
    __syncthreads();
    if (step == Probe::kMostSteps || s.probing->found != Probed::kOpen) {
      break;
    }
    begin_round(team, s.probe, s.n, m);
    rows.multiply(team, s, m, s.probe, q);
    end_round(s.probe);
    const float* const product = latest(s.probe);
    double own = 0;
    for (int i = team.thread; i < s.n; i += team.threads) {
      own += i >= m ? q[i] * product[place_of_row(team, i)] : 0;
    }
    const double alpha = block_sum(team, own, s.partial[0]);
    const auto along = static_cast<float>(alpha);
    own = 0;
    for (int i = team.thread; i < s.n; i += team.threads) {
      const float next =
          i >= m ? product[place_of_row(team, i)] - (along * q[i] + back * before[i]) : 0;
      before[i] = q[i];
      q[i] = next;
      own += static_cast<double>(next) * next;
    }
    const double beta = sqrt(block_sum(team, own, s.partial[1]));
    back = static_cast<float>(beta);
    const auto inverse = static_cast<float>(1 / beta);
    for (int i = team.thread; i < s.n; i += team.threads) {
      q[i] *= inverse;
    }
    if (team.thread == 0) {
      s.probing->found = s.probing->probe.step(alpha, beta);
    }
  }
  const bool none_hidden = s.probing->found == Probed::kNoneHidden;
  cluster_sync();  // all blocks have read the last products
  return none_hidden;
}

}  // namespace svdprune::cuda
