"""Leverage scores: with the spectrum cut off at a rank, and with it damped."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from svdprune_ext.methods.method import Selected
from svdprune_ext.methods.options import SELECTS, SOLVERS, Flag, Rank, Share, one_of
from svdprune_ext.methods.ranking import highest
from svdprune_ext.ops import prune


def svd(
    x: Tensor,
    keep: int,
    attention: Tensor | None,
    *,
    variance: Share = 0.9,
    rank: Rank = None,
    center: Flag = False,
    solver: Annotated[str, one_of(*SOLVERS)] = "auto",
    select: Annotated[str, one_of(*SELECTS)] = "topk",
) -> Selected:
    """``l_i = ||U[i, :r]||^2``: the operator ``svdprune_ext.prune``, whose options these are.

    Source: SVD-Prune, arXiv 2604.11530, section 3.
    """
    pruned = prune(
        x, keep, variance=variance, rank=rank, center=center, solver=solver, select=select
    )
    return Selected(pruned.indices, scores=pruned.scores if select == "topk" else None)


def ridge(
    x: Tensor,
    keep: int,
    attention: Tensor | None,
    *,
    variance: Share = 0.9,
    rank: Rank = None,
) -> Selected:
    """``l_i = x_i^T (X^T X + lambda I)^+ x_i`` with ``lambda = ||X - X_r||_F^2 / r``.

    The paper leaves r to the user: here the fewest directions that hold ``variance`` of the energy, as in
    SVD-Prune, so that the two differ in nothing but the cut; ``rank`` overrides it. In float64, by the
    eigenvalues of the smaller Gram matrix; on CUDA torch waits for them.

    Source: Cohen, Musco, Musco, "Input Sparsity Time Low-Rank Approximation via Ridge Leverage Score
    Sampling", arXiv 1511.07263, its rank-k ridge leverage scores.
    """
    tokens, width = x.shape[1:]
    if rank is not None and not 1 <= rank <= min(tokens, width):
        raise ValueError(f"ridge: rank must be in [1, {min(tokens, width)}], got {rank}")
    x = x.double()
    x = x / x.abs().amax((1, 2), keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
    on_tokens = tokens <= width
    energy, vectors = torch.linalg.eigh(x @ x.mT if on_tokens else x.mT @ x)
    energy, vectors = energy.flip(-1), vectors.flip(-1)
    rounding = energy[:, :1] * max(tokens, width) * torch.finfo(x.dtype).eps
    energy = energy.where(energy > rounding, 0)

    held = energy.cumsum(-1)
    total = held[:, -1:]
    if rank is None:
        r = (held < variance * total).sum(-1, keepdim=True) + 1
    else:
        r = torch.full_like(total, rank, dtype=torch.int64)
    damping = (total - held.gather(1, r - 1)).clamp_min(0) / r

    weight = 1 / (energy + damping).where(energy > 0, torch.inf)  # 0 in directions without energy
    squares = vectors.square() * energy[:, None] if on_tokens else (x @ vectors).square()
    scores = (squares * weight[:, None]).sum(-1)
    return Selected(highest(scores, keep), scores=scores)
