// What rater_scores works on. Framework-free: the CUDA kernels take it as it is.
#pragma once

#include <cstdint>

namespace svdprune {

// Where a boolean mask [B, H, L, S] lies; a dimension that it does not have, or has once for all, has stride 0.
struct RaterMask {
  const bool* data;  // null: every key is seen
  int64_t batch_stride, head_stride, query_stride, key_stride;
};

// Queries [B, H, L, d] or keys [B, Hkv, S, d] of a layer; strides in elements.
struct Heads {
  const void* data;
  int64_t batch_stride, head_stride, token_stride, feature_stride;
};

struct RaterArgs {
  int64_t prompts;    // B
  int64_t heads;      // H
  int64_t key_heads;  // Hkv
  int64_t queries;    // L
  int64_t keys;       // S
  int64_t features;   // d
  int64_t raters;     // R
  int64_t columns;    // N
  Heads q, k;
  RaterMask mask;
  bool causal;
  double scale;
};

}  // namespace svdprune
