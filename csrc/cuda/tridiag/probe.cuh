// Whether an eigenvalue hides in what remains: the probe of Note [hidden eigenvalues] in
// ../../hidden_eigenvalues.h, on a cluster. Every block takes the Lanczos steps alike.
#pragma once

#include "reduce.cuh"

namespace svdprune::cuda {

// The probe's first vector, of unit length, in q [n]; zeros before m. Returns the squared norm that it had.
template <int kColumns>
__device__ __forceinline__ double fill_probe(const Team& team, const Shared& s, int m, float* q) {
  double square = 0;
  for_own_rows<kColumns>(team, [&](int, int i) {
    q[i] = i >= m && i < s.n ? static_cast<float>(probe_entry(i - m)) : 0;
    square += static_cast<double>(q[i]) * q[i];
  });
  square = block_sum(team, square, s.partial[0]);
  const auto scale = static_cast<float>(tridiag::inverse_root(square));
  for_own_rows<kColumns>(team, [&](int, int i) { q[i] *= scale; });
  return square;
}

// The squared norm of R q - alpha q - back before, with q and before orthonormal, of which alpha = q^T R q.
__device__ __forceinline__ double rest_of(double square, double alpha, double back) {
  constexpr double kCancels = 1e-3;  // as q is of unit length to some 1e-7
  const double rest = square - alpha * alpha - back * back;
  return rest > kCancels * square ? rest : -1;
}

// True: no eigenvalue of what remains from row and column m on lies above `limit`. No update is pending, so there is
// room for two vectors, and for the products in what the next step exchanges.
template <class Plan>
__device__ __forceinline__ bool probe_misses(Team team, Shared& s, const Rows<Plan>& rows, int m,
                                             double limit) {
  constexpr int kColumns = Plan::kColumns;
  forget_derived(team);
  s.probe.results = reinterpret_cast<float*>(free_buffer(s.steps));
  auto* const q = reinterpret_cast<float*>(s.pending);
  float* const before = q + s.steps.capacity;
  float back = 0;
  for_own_rows<kColumns>(team, [&](int, int i) { before[i] = 0; });
  const double square = fill_probe<kColumns>(team, s, m, q);
  if (team.thread == 0) {
    *s.probing = {Probe{square, limit}, Probed::kOpen};
  }
#pragma unroll 1
  for (int step = 0;; ++step) {
    __syncthreads();
    if (step == Probe::kMostSteps || s.probing->found != Probed::kOpen) {
      break;
    }
    begin_round(team, s.probe, s.n, m);
    rows.multiply(team, s, m, s.probe, q);
    end_round(s.probe);
    float product[kOwnRows<kColumns>];
    double sums[4] = {};
    for_own_rows<kColumns>(team, [&](int own, int i) {
      product[own] = i >= m && i < s.n ? latest(s.probe)[i] : 0;
      sums[0] += static_cast<double>(q[i]) * product[own];
      sums[1] += static_cast<double>(product[own]) * product[own];
    });
    block_sums(team, sums, s.sums);
    const double alpha = sums[0];
    for_own_rows<kColumns>(team, [&](int own, int i) {
      product[own] -= static_cast<float>(alpha) * q[i] + back * before[i];
    });
    double rest = rest_of(sums[1], alpha, back);
    if (rest < 0) {
      double own_rest = 0;
      for_own_rows<kColumns>(team, [&](int own, int) {
        own_rest += static_cast<double>(product[own]) * product[own];
      });
      rest = block_sum(team, own_rest, s.partial[0]);
    }
    const double inverse = rest > 0 ? tridiag::inverse_root(rest) : 0;
    const double beta = rest * inverse;
    back = static_cast<float>(beta);
    for_own_rows<kColumns>(team, [&](int own, int i) {
      before[i] = q[i];
      q[i] = product[own] * static_cast<float>(inverse);
    });
    if (team.thread == 0) {
      s.probing->found = s.probing->probe.step(alpha, beta);
    }
  }
  const bool none_hidden = s.probing->found == Probed::kNoneHidden;
  cluster_sync();  // all blocks have read the last products
  return none_hidden;
}

}  // namespace svdprune::cuda
