"""Typed wrappers of ``torch.ops.svdprune.*``.

Numerics, for all: float64 input is worked on in float64, all others in float32 (16-bit products are exact
in it). Against a float64 SVD of the same input the scores differ by at most ``max(2e-4, 3e-9 / gap)`` with
``gap = (lambda_r - lambda_r+1) / lambda_1`` of the Gram matrix, and the rank only where the energy at the cut
lies within 1e-6 of the threshold (solver "eigh": 1e-6 / gap and 1e-5; "purify" on the CPU:
``max(1e-6, 1e-14 / gap)`` and 1e-12; float64 input: ``max(1e-8, 1e-14 / gap)`` and 1e-12). Equal scores: the
lower index wins.

Solvers: "tridiag" is a Householder tridiagonalisation that stops as soon as a certificate says that the
leading directions are there, with the eigenpairs in float64; "eigh" is LAPACK's or cuSOLVER's full
decomposition; "auto" is "tridiag", and "eigh" for float64 input. "purify" finds the projector onto the
leading directions by matrix products alone, on N x N matrices. On the CPU it is there for cross-checks, in
float64; where it has not settled after 600 products, "eigh" takes over. It counts every direction of a given
rank there.

On CUDA "tridiag" takes float32 and 16-bit input of up to 1024 tokens, or of more tokens of up to 1024
features, on sm_90 and later; otherwise "eigh" stands in. "auto" leaves images with flat spectra to "purify"
where that pays, and "purify" is "tridiag" where it cannot be; ``docs/cuda.md`` says when. All have a float32
Gram matrix there, and promise what is said of "eigh" above. All can be captured in a CUDA graph, but for
"eigh" with min(N, D) > 512, where cuSOLVER waits for the device.

Selection: "topk" keeps the tokens of highest leverage. "pivoted" picks one token after the other, each time
the one of which most is left outside the span of those picked, so it keeps no copies; ``docs/selection.md``
says why. It looks at the features' Gram matrix alone, at no directions and no eigenvectors, so ``variance``,
``rank`` and ``solver`` are to be left out, and N is 16384 at most. A token counts as explained when no more
than 128 eps of its squared length is left (eps that of the working precision); explained ones come last, the
lower index first. Tokens of which the same is left, to 32 eps, are equal: the lower index wins.

Arrays: beside tensors, all but ``diagnose`` take arrays of a library with DLPack (NumPy, CuPy, JAX) and
return arrays of that library, on the same device, without a copy and without a gradient. See ``arrays.py``.

Method: SVD-Prune, arXiv 2604.11530, section 3.
"""

from __future__ import annotations

from typing import Generic, NamedTuple

import torch
from torch import Tensor

from svdprune_ext._register import saved_as
from svdprune_ext.arrays import TENSORS, Array, call_with_arrays


@saved_as("svdprune_ext.LeverageScores")
class LeverageScores(NamedTuple, Generic[Array]):
    """Result of ``leverage_scores``: scores [B, N] in [0, 1] that sum to rank [B] (int32)."""

    scores: Array
    rank: Array


@saved_as("svdprune_ext.Pruned")
class Pruned(NamedTuple, Generic[Array]):
    """Result of ``prune``.

    Attributes:
        tokens: The kept rows of x, bit for bit, in their original order [B, keep, D].
        indices: Their positions, ascending, int64 [B, keep].
        scores: Leverage of every token [B, N]. With "pivoted" the share of the energy ``||x||_F^2`` that each
            kept token added to what those picked before it hold, 0 for all others: their sum is the energy
            that the kept tokens hold.
        rank: Number of leading directions, int32 [B]. With "pivoted" the dimension of the kept tokens' span.
    """

    tokens: Array
    indices: Array
    scores: Array
    rank: Array


@saved_as("svdprune_ext.PrunedAdaptive")
class PrunedAdaptive(NamedTuple, Generic[Array]):
    """Result of ``prune_adaptive``.

    Attributes:
        tokens: The kept rows of x, then zero rows [B, max_keep, D].
        indices: Their positions, ascending, then -1, int64 [B, max_keep].
        count: Number of tokens kept, int32 [B].
        scores: Leverage of every token [B, N]. With "pivoted" the share of the energy ``||x||_F^2`` that each
            kept token added to what those picked before it hold, 0 for all others: their sum is the energy
            that the kept tokens hold.
        rank: Number of leading directions, int32 [B]. With "pivoted" the dimension of the kept tokens' span.
    """

    tokens: Array
    indices: Array
    count: Array  # type: ignore[assignment]  # hides tuple.count, as the operator's schema names it
    scores: Array
    rank: Array


def leverage_scores(
    x: Array,
    *,
    variance: float = 0.9,
    rank: int | None = None,
    center: bool = False,
    solver: str = "auto",
) -> LeverageScores[Array]:
    """Leverage of each vision token on the leading left singular vectors of its image.

    Args:
        x: Vision tokens [B, N, D] or [N, D]; float64, float32, float16 or bfloat16; any strides.
        variance: Share of the energy ``||x||_F^2`` that the leading directions hold, in (0, 1]. The rank is
            the smallest number of directions that do.
        rank: Number of leading directions, in [1, min(N, D)]; overrides ``variance``. Where N > D, and
            on CUDA where images are packed, those in which x has nothing left but rounding are not counted.
        center: Subtract the mean token first.
        solver: "auto", "tridiag", "eigh" or "purify"; see above.

    Returns:
        Scores [B, N], float32 (float64 for float64 input), and rank [B]; without B for [N, D].

    Raises:
        ValueError: An argument is out of its range, or x holds NaN or Inf (CPU).
    """
    options = dict(variance=variance, rank=rank, center=center, solver=solver)
    if not isinstance(x, TENSORS):
        return call_with_arrays(leverage_scores, {"x": x}, **options)
    scores, found = torch.ops.svdprune.leverage_scores(x, **options)
    return LeverageScores(scores, found)


@saved_as("svdprune_ext.Diagnosis")
class Diagnosis(NamedTuple):
    """Result of ``diagnose``.

    Attributes:
        rank: Number of leading directions, int32 [B].
        steps: Steps of the tridiagonalisation that were taken, or matrix products of "purify", int32 [B].
        size: Side of the Gram matrix, and the steps that a full tridiagonalisation takes, int32 [B]:
            min(N, D), and N for "purify" and for "tridiag" on CUDA.
        solver: What ran for each image: "tridiag", "eigh", "purify", or "none" for an image without energy
            (on CUDA that has a solver too).
        refined: Whether the image was solved again in float64, because float32 might have missed the
            accuracy promised; rank, steps and solver are of that then. Bool [B].
    """

    rank: Tensor
    steps: Tensor
    size: Tensor
    solver: list[str]
    refined: Tensor


def diagnose(
    x: Tensor,
    *,
    variance: float = 0.9,
    rank: int | None = None,
    center: bool = False,
    solver: str = "auto",
) -> Diagnosis:
    """How the solver goes about each image: for study, as it does the work anew.

    Args:
        x: As in ``leverage_scores``.
        variance: As in ``leverage_scores``.
        rank: As in ``leverage_scores``.
        center: As in ``leverage_scores``.
        solver: As in ``leverage_scores``.

    Returns:
        Rank, steps and size [B], the solver that ran for each of B images (1 for [N, D]), and which were
        solved again in float64 [B].

    Raises:
        ValueError: An argument is out of its range, or x holds NaN or Inf.
    """
    found, steps, size, ran, refined = torch.ops.svdprune.diagnose(
        x, variance=variance, rank=rank, center=center, solver=solver
    )
    names = ("none", "eigh", "tridiag", "purify")
    solvers = [names[code] for code in ran.flatten().tolist()]
    return Diagnosis(found, steps, size, solvers, refined.bool())


def prune(
    x: Array,
    keep: int,
    *,
    variance: float = 0.9,
    rank: int | None = None,
    center: bool = False,
    solver: str = "auto",
    select: str = "topk",
) -> Pruned[Array]:
    """Keeps ``keep`` vision tokens: those of highest leverage, or with "pivoted" those that span the most.

    Differentiable in x through the kept rows.

    Args:
        x: Vision tokens [B, N, D] or [N, D]; float64, float32, float16 or bfloat16; any strides.
        keep: Number of tokens to keep, in [0, N].
        variance: As in ``leverage_scores``.
        rank: As in ``leverage_scores``.
        center: As in ``leverage_scores``; the tokens returned are not centred.
        solver: As in ``leverage_scores``.
        select: Rule of selection: "topk" or "pivoted"; see above.

    Returns:
        Tokens [B, keep, D], indices [B, keep], scores [B, N], rank [B]; without B for [N, D].

    Raises:
        ValueError: An argument is out of its range, or x holds NaN or Inf (CPU).
    """
    options = dict(variance=variance, rank=rank, center=center, solver=solver, select=select)
    if not isinstance(x, TENSORS):
        return call_with_arrays(prune, {"x": x}, keep=keep, **options)
    tokens, indices, scores, found = torch.ops.svdprune.prune(x, keep, **options)
    return Pruned(tokens, indices, scores, found)


def prune_adaptive(
    x: Array,
    max_keep: int,
    *,
    coverage: float,
    variance: float = 0.9,
    rank: int | None = None,
    center: bool = False,
    solver: str = "auto",
    select: str = "topk",
) -> PrunedAdaptive[Array]:
    """Keeps the fewest vision tokens whose leverage sums to ``coverage * rank``.

    With "pivoted": the first picks that together hold ``coverage`` of the energy ``||x||_F^2``.

    Shapes do not depend on the data, so CUDA graphs and ``torch.compile`` take it. Differentiable in x
    through the kept rows.

    Args:
        x: Vision tokens [B, N, D] or [N, D]; float64, float32, float16 or bfloat16; any strides.
        max_keep: The most tokens to keep, in [0, N].
        coverage: Share of the total leverage, or with "pivoted" of the energy, to keep, in (0, 1].
        variance: As in ``leverage_scores``.
        rank: As in ``leverage_scores``.
        center: As in ``leverage_scores``.
        solver: As in ``leverage_scores``.
        select: As in ``prune``.

    Returns:
        Tokens [B, max_keep, D], indices [B, max_keep], count [B], scores [B, N], rank [B].

    Raises:
        ValueError: An argument is out of its range, or x holds NaN or Inf (CPU).
    """
    options = dict(variance=variance, rank=rank, center=center, solver=solver, select=select)
    if not isinstance(x, TENSORS):
        return call_with_arrays(
            prune_adaptive, {"x": x}, max_keep=max_keep, coverage=coverage, **options
        )
    tokens, indices, count, scores, found = torch.ops.svdprune.prune_adaptive(
        x, max_keep, coverage=coverage, **options
    )
    return PrunedAdaptive(tokens, indices, count, scores, found)


def prune_varlen(
    x: Array,
    cu_seqlens: Array,
    cu_keep: Array,
    *,
    total_keep: int | None = None,
    max_seqlen: int | None = None,
    variance: float = 0.9,
    rank: int | None = None,
    center: bool = False,
    solver: str = "auto",
    select: str = "topk",
) -> Pruned[Array]:
    """Prunes packed images of different lengths, each with a budget of its own.

    Args:
        x: Vision tokens of all images, one after the other [T, D].
        cu_seqlens: Where each image begins, and T: int32 or int64 [B + 1], as FlashAttention's.
        cu_keep: The same for the kept tokens [B + 1]; image b keeps ``cu_keep[b + 1] - cu_keep[b]``.
        total_keep: ``cu_keep[-1]``. Given, a device tensor is not read back; else it is.
        max_seqlen: Length of the longest image. Given, a device tensor is not read back; else it is.
        variance: As in ``leverage_scores``.
        rank: As in ``leverage_scores``, in [1, D]; an image with fewer tokens uses their number.
        center: As in ``leverage_scores``, each image by its own mean.
        solver: As in ``leverage_scores``.
        select: As in ``prune``.

    Returns:
        Tokens [total_keep, D], indices [total_keep] into x's rows, scores [T], rank [B].

    Raises:
        ValueError: An argument is out of its range, or x holds NaN or Inf (CPU).
    """
    options = dict(variance=variance, rank=rank, center=center, solver=solver, select=select)
    if not (
        isinstance(x, TENSORS) and isinstance(cu_seqlens, TENSORS) and isinstance(cu_keep, TENSORS)
    ):
        return call_with_arrays(
            prune_varlen,
            {"x": x, "cu_seqlens": cu_seqlens, "cu_keep": cu_keep},
            total_keep=total_keep,
            max_seqlen=max_seqlen,
            **options,
        )
    for name, offsets in (("cu_seqlens", cu_seqlens), ("cu_keep", cu_keep)):
        if offsets.dim() != 1 or len(offsets) < 1:
            raise ValueError(
                f"svdprune::prune_varlen: {name} must be [B + 1], got shape {list(offsets.shape)}"
            )
    if total_keep is None:
        total_keep = int(cu_keep[-1])
    if max_seqlen is None:
        lengths = cu_seqlens.long().diff()
        max_seqlen = int(lengths.max()) if len(lengths) else 0
    tokens, indices, scores, found = torch.ops.svdprune.prune_varlen(
        x, cu_seqlens, cu_keep, total_keep=total_keep, max_seqlen=max_seqlen, **options
    )
    return Pruned(tokens, indices, scores, found)
