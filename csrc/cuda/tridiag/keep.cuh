// Stages 4 and 5 inside a cluster: which tokens stay, and their rows.
#pragma once

#include "../gather.cuh"
#include "../select.cuh"
#include "leverage.cuh"

namespace svdprune::cuda {

// A byte a token in every block, 1 for one that stays; in place of the exchange.
__device__ __forceinline__ uint8_t* shared_kept(const Shared& s) {
  return reinterpret_cast<uint8_t*>(s.steps.results + s.steps.capacity);
}

// Compares this block's tokens with all, a warp a token. rank < 0: the first tokens stay.
__device__ __forceinline__ void send_kept(const Team& team, const Shared& s, int rank,
                                          int64_t places, double coverage) {
  const float* scores = shared_scores(s);
  const Run own = own_tokens(team, s.n);
  for (int token = own.begin + team.warp; token < own.end; token += team.warps) {
    const bool by_score =
        token_stays(token, s.n, places, coverage, [&](int i) { return scores[i]; });
    const bool stays = rank < 0 ? token < places : by_score;
    tell_all(team, shared_kept(s) + token, static_cast<uint8_t>(stays));
  }
}

}  // namespace svdprune::cuda
