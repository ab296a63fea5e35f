// Every op schema of svdprune_ext. The kernels register themselves, per backend, in
// cpu/ and cuda/; fake kernels and autograd are registered in svdprune_ext/_register.py, _transforms.py and
// rater.py.

#include "stable.h"

STABLE_TORCH_LIBRARY(svdprune, m) {
  // Leverage of each token on the top left singular vectors: x [B, N, D] or [N, D] ->
  // scores [B, N], rank [B].
  m.def(
      "leverage_scores(Tensor x, *, float variance=0.9, SymInt? rank=None, bool center=False, "
      "str solver=\"auto\") -> (Tensor scores, Tensor rank)");

  // How a solver went about each image: rank [B], steps [B] of the tridiagonalisation that it took,
  // of size [B] at most, or matrix products of "purify"; solver [B]: 1 "eigh", 2 "tridiag", 3
  // "purify"; and refined [B]: 1 if the image was solved again in float64, which the others are of
  // then. Does the work anew; for study, not service.
  m.def(
      "diagnose(Tensor x, *, float variance=0.9, SymInt? rank=None, bool center=False, "
      "str solver=\"auto\") -> (Tensor rank, Tensor steps, Tensor size, Tensor solver, "
      "Tensor refined)");

  // The `keep` tokens that a rule selects: tokens [B, keep, D], indices [B, keep], scores [B, N],
  // rank [B]. "topk": those of highest leverage. "pivoted": one after the other, each the token of
  // which most is left outside the span of those before it; scores are the shares of the energy that
  // the kept tokens added, rank is the dimension of their span.
  m.def(
      "prune(Tensor x, SymInt keep, *, float variance=0.9, SymInt? rank=None, bool center=False, "
      "str solver=\"auto\", str select=\"topk\") "
      "-> (Tensor tokens, Tensor indices, Tensor scores, Tensor rank)");

  // The fewest tokens whose leverage sums to coverage * rank, or with "pivoted" the first that hold
  // `coverage` of the energy, padded to max_keep: tokens [B, max_keep, D], indices [B, max_keep],
  // count [B], scores [B, N], rank [B].
  m.def(
      "prune_adaptive(Tensor x, SymInt max_keep, *, float coverage, float variance=0.9, "
      "SymInt? rank=None, bool center=False, str solver=\"auto\", str select=\"topk\") "
      "-> (Tensor tokens, Tensor indices, Tensor count, Tensor scores, Tensor rank)");

  // Packed images of different lengths: x [T, D], image b is x[cu_seqlens[b]:cu_seqlens[b + 1]] and
  // keeps cu_keep[b + 1] - cu_keep[b] tokens: tokens [total_keep, D], indices [total_keep] into x,
  // scores [T], rank [B]. total_keep and max_seqlen are given so that a device needs no host sync.
  m.def(
      "prune_varlen(Tensor x, Tensor cu_seqlens, Tensor cu_keep, *, SymInt total_keep, "
      "SymInt max_seqlen, float variance=0.9, SymInt? rank=None, bool center=False, "
      "str solver=\"auto\", str select=\"topk\") "
      "-> (Tensor tokens, Tensor indices, Tensor scores, Tensor rank)");

  // Attention that queries `raters` [B, R] of q [B, H, L, d] pay to keys `visual` [B, N] of k
  // [B, Hkv, S, d]; -1 is padding. mask: [B, S] or [B or 1, H or 1, L, S], true for keys that are seen;
  // head_weights [B, H]. Mean over heads and raters: scores [B, N]; over heads: attention [B, R, N]; share
  // of each head's attention that goes there: head_mass [B, H].
  m.def(
      "rater_scores(Tensor q, Tensor k, Tensor raters, Tensor visual, Tensor? mask=None, "
      "Tensor? head_weights=None, *, bool causal=True, float? scale=None) "
      "-> (Tensor scores, Tensor attention, Tensor head_mass)");

  // The same of each head, over all raters: scores [B, H, N], the attention of a rater to a key divided by
  // divisor [B or 1, R, N] before the mean over the raters is taken.
  m.def(
      "rater_scores_by_head(Tensor q, Tensor k, Tensor raters, Tensor visual, Tensor? mask=None, "
      "Tensor? divisor=None, *, bool causal=True, float? scale=None) -> Tensor scores");
}
