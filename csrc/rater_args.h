// The arguments of rater_scores, checked once by either backend before any work.
#pragma once

#include "prune_args.h"
#include "rater.h"

#include <cmath>
#include <limits>

namespace svdprune {

inline void check_queries_and_keys(const char* op, const Tensor& q, const Tensor& k, bool causal) {
  const ScalarType dtype = q.scalar_type();
  if (dtype != ScalarType::Double && dtype != ScalarType::Float && dtype != ScalarType::Half &&
      dtype != ScalarType::BFloat16) {
    refuse(op, "q must be float64, float32, float16 or bfloat16, got ",
           torch::headeronly::toString(dtype));
  }
  if (k.scalar_type() != dtype) {
    refuse(op, "k must have q's dtype ", torch::headeronly::toString(dtype), ", got ",
           torch::headeronly::toString(k.scalar_type()));
  }
  if (q.dim() != 4 || q.size(1) < 1 || q.size(3) < 1) {
    refuse(op, "q must be [B, H, L, d] with H, d >= 1, got shape ", shape_of(q));
  }
  if (k.dim() != 4 || k.size(0) != q.size(0) || k.size(3) != q.size(3)) {
    refuse(op, "k must be [B, Hkv, S, d] with B = ", q.size(0), " and d = ", q.size(3),
           " of q, got shape ", shape_of(k));
  }
  if (k.size(1) < 1 || q.size(1) % k.size(1) != 0) {
    refuse(op, "k must have a number of heads that divides the ", q.size(1), " of q, got ",
           k.size(1));
  }
  if (causal && k.size(2) < q.size(2)) {
    refuse(op, "k must have a key for each of the ", q.size(2), " queries where causal, got ",
           k.size(2));
  }
  if (std::max({q.size(2), k.size(2), q.size(3)}) > kMaxExtent) {
    refuse(op, "q and k must have L, S and d below 2^31, got shapes ", shape_of(q), " and ",
           shape_of(k));
  }
  check_device(op, "k", k, "q", q);
}

inline void check_positions(const char* op, const char* name, const char* shape, const Tensor& t,
                            const Tensor& q) {
  if (t.scalar_type() != ScalarType::Long) {
    refuse(op, name, " must be int64, got ", torch::headeronly::toString(t.scalar_type()));
  }
  if (t.dim() != 2 || t.size(0) != q.size(0) || t.size(1) > kMaxExtent) {
    refuse(op, name, " must be ", shape, " with B = ", q.size(0), " of q, got shape ", shape_of(t));
  }
  check_device(op, name, t, "q", q);
}

inline RaterMask checked_mask(const char* op, const std::optional<Tensor>& mask, const Tensor& q,
                              const Tensor& k) {
  if (!mask) {
    return {};
  }
  if (mask->scalar_type() != ScalarType::Bool) {
    refuse(op, "mask must be bool, got ", torch::headeronly::toString(mask->scalar_type()));
  }
  check_device(op, "mask", *mask, "q", q);
  const int64_t prompts = q.size(0), heads = q.size(1), queries = q.size(2), keys = k.size(2);
  const bool* data = static_cast<const bool*>(mask->const_data_ptr());
  if (mask->dim() == 2 && mask->size(0) == prompts && mask->size(1) == keys) {
    return {data, mask->stride(0), 0, 0, mask->stride(1)};
  }
  if (mask->dim() == 4 && (mask->size(0) == prompts || mask->size(0) == 1) &&
      (mask->size(1) == heads || mask->size(1) == 1) && mask->size(2) == queries &&
      mask->size(3) == keys) {
    return {data, mask->size(0) == 1 ? 0 : mask->stride(0),
            mask->size(1) == 1 ? 0 : mask->stride(1), mask->stride(2), mask->stride(3)};
  }
  refuse(op, "mask must be [B, S] = [", prompts, ", ", keys, "] or [B or 1, H or 1, L, S] = [",
         prompts, ", ", heads, ", ", queries, ", ", keys, "], got shape ", shape_of(*mask));
}

inline Heads heads_of(const Tensor& t) {
  return {t.const_data_ptr(), t.stride(0), t.stride(1), t.stride(2), t.stride(3)};
}

// It is used in the precision of the products.
inline void check_scale(const char* op, std::optional<double> scale, const Tensor& q) {
  if (!scale) {
    return;
  }
  const double size = std::fabs(*scale);
  if (!std::isfinite(size)) {
    refuse(op, "scale must be finite, got ", *scale);
  }
  if (score_dtype(q) == ScalarType::Float && size != 0 &&
      (size < std::numeric_limits<float>::min() || size > std::numeric_limits<float>::max())) {
    refuse(op, "scale must be 0 or a normal number of float32, got ", *scale);
  }
}

inline RaterArgs checked_rater_args(const char* op, const Tensor& q, const Tensor& k,
                                    const Tensor& raters, const Tensor& visual,
                                    const std::optional<Tensor>& mask, bool causal,
                                    std::optional<double> scale) {
  check_queries_and_keys(op, q, k, causal);
  check_positions(op, "raters", "[B, R]", raters, q);
  check_positions(op, "visual", "[B, N]", visual, q);
  const RaterMask checked = checked_mask(op, mask, q, k);
  check_scale(op, scale, q);
  return {.prompts = q.size(0),
          .heads = q.size(1),
          .key_heads = k.size(1),
          .queries = q.size(2),
          .keys = k.size(2),
          .features = q.size(3),
          .raters = raters.size(1),
          .columns = visual.size(1),
          .q = heads_of(q),
          .k = heads_of(k),
          .mask = checked,
          .causal = causal,
          .scale = scale.value_or(1 / std::sqrt(static_cast<double>(q.size(3))))};
}

inline void check_head_weights(const char* op, const std::optional<Tensor>& head_weights,
                               const Tensor& q) {
  if (!head_weights) {
    return;
  }
  if (head_weights->scalar_type() != ScalarType::Float) {
    refuse(op, "head_weights must be float32, got ",
           torch::headeronly::toString(head_weights->scalar_type()));
  }
  if (head_weights->dim() != 2 || head_weights->size(0) != q.size(0) ||
      head_weights->size(1) != q.size(1)) {
    refuse(op, "head_weights must be [B, H] = [", q.size(0), ", ", q.size(1), "], got shape ",
           shape_of(*head_weights));
  }
  check_device(op, "head_weights", *head_weights, "q", q);
}

// What rater_scores_by_head divides by.
inline void check_divisor(const char* op, const std::optional<Tensor>& divisor,
                          const RaterArgs& args, const Tensor& q) {
  if (!divisor) {
    return;
  }
  const ScalarType dtype = score_dtype(q);
  if (divisor->scalar_type() != dtype) {
    refuse(op, "divisor must be ", torch::headeronly::toString(dtype), ", got ",
           torch::headeronly::toString(divisor->scalar_type()));
  }
  if (divisor->dim() != 3 || (divisor->size(0) != args.prompts && divisor->size(0) != 1) ||
      divisor->size(1) != args.raters || divisor->size(2) != args.columns) {
    refuse(op, "divisor must be [B or 1, R, N] = [", args.prompts, ", ", args.raters, ", ",
           args.columns, "], got shape ", shape_of(*divisor));
  }
  check_device(op, "divisor", *divisor, "q", q);
}

}  // namespace svdprune
