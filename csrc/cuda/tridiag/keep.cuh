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
    Standing standing;
    for (int other = team.lane; other < s.n; other += 32) {
      standing.meet(scores[token], token, scores[other], other);
    }
    standing.before = warp_sum(static_cast<int>(standing.before));
    if (coverage > 0) {
      standing.covered = warp_sum(standing.covered);
      standing.total = warp_sum(standing.total);
    }
    const bool stays = rank < 0 ? token < places : standing.stays(places, coverage);
    tell_all(team, shared_kept(s) + token, static_cast<uint8_t>(stays));
  }
}

// In every lane: how many of the first `end` tokens stay.
__device__ __forceinline__ int count_kept(const Team& team, const uint8_t* kept, int end) {
  int count = 0;
  for (int i = team.lane; i < end; i += 32) {
    count += kept[i];
  }
  return warp_sum(count);
}

// tokens, indices and count of image b, as launch_gather writes them; a warp a row, of all warps of
// the cluster.
__device__ __forceinline__ void gather_kept(const Team& team, const Shared& s, const Images& x,
                                            int64_t b, const Budget& budget, char* tokens,
                                            int64_t* indices, int32_t* counts) {
  const uint8_t* kept = shared_kept(s);
  const int64_t width = width_of(x.dtype);
  const int64_t row_bytes = x.features * width;
  const int64_t places = places_of(budget, b), base = first_kept(budget, b);
  const int step = team.size * team.warps;
  for (int token = team.rank + team.size * team.warp; token < s.n; token += step) {
    if (!kept[token]) {
      continue;
    }
    const int64_t place = count_kept(team, kept, token);
    if (place >= places) {
      continue;
    }
    const char* source = static_cast<const char*>(x.data) + token_offset(x, b, token) * width;
    copy_row(source, x.feature_stride, width, x.features, tokens + (base + place) * row_bytes,
             team.lane);
    if (team.lane == 0) {
      indices[base + place] = x.cu_seqlens ? first_token(x, b) + token : token;
    }
  }
  const int all = count_kept(team, kept, s.n);
  for (int64_t place = all + team.rank + team.size * team.warp; place < places; place += step) {
    clear_row(row_bytes, tokens + (base + place) * row_bytes, team.lane);
    if (team.lane == 0) {
      indices[base + place] = -1;
    }
  }
  if (counts && team.rank == 0 && team.thread == 0) {
    counts[b] = all;
  }
}

}  // namespace svdprune::cuda
