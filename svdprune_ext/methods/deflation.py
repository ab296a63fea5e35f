"""Greedy rules that take from every token what the chosen ones explain; see ``docs/selection.md``."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from svdprune_ext.methods.method import Selected
from svdprune_ext.methods.options import Flag, Share
from svdprune_ext.methods.ranking import where_true

_LEFT = 1e-10  # of a token's squared length: below, nothing of it is left. All is in float64 here.
_TIE = 1e-12  # by which two criteria differ that are equal


def qdeim(
    x: Tensor,
    keep: int,
    attention: Tensor | None,
    *,
    variance: Share = 0.9,
    weighted: Flag = False,
    center: Flag = False,
) -> Selected:
    """Leverage with deflation: QR with column pivoting on ``U_r^T``, X = U S V^T.

    It picks the token of which most is left of ``||U[i, :r]||^2`` outside the span of those picked. After r
    picks nothing is left of any, and it starts anew on the tokens not yet picked. In float64; on CUDA torch
    waits for the eigenvalues.

    Options:
        variance: r is the fewest directions that hold this share of the energy.
        weighted: Rows of ``U_r S_r`` in place of ``U_r``.
        center: Subtract the mean token first.

    Source: Q-DEIM, Drmač, Gugercin, arXiv 1505.00370, which has r points for r directions; starting anew is
    ours.
    """
    gram = _gram(x, center)
    energy, vectors = torch.linalg.eigh(gram)
    energy, vectors = energy.flip(-1).clamp_min(0), vectors.flip(-1)
    before = energy.cumsum(-1) - energy
    leading = (before < variance * energy.sum(-1, keepdim=True)) & (energy > 0)
    weights = energy * leading if weighted else leading.to(energy.dtype)
    return _greedy((vectors * weights[:, None]) @ vectors.mT, keep, _own, renew=True)


def css(x: Tensor, keep: int, attention: Tensor | None, *, center: Flag = False) -> Selected:
    """Column subset selection: each step lets the error of X, rebuilt from the tokens picked, drop most.

    Options:
        center: Subtract the mean token first.

    The error is ``||X - X P||_F^2``, P the projector onto the span of the rows picked. In float64.

    Source: Farahat, Ghodsi, Kamel, "An Efficient Greedy Method for Unsupervised Feature Selection", ICDM
    2011, its criterion; here on rows, with the residual itself at hand.
    """
    return _greedy(_gram(x, center), keep, _drop)


def _gram(x: Tensor, center: bool) -> Tensor:
    x = x.detach().double()
    if center:
        x = x - x.mean(1, keepdim=True)
    x = x / x.abs().amax((1, 2), keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
    return x @ x.mT


def _own(residual: Tensor) -> Tensor:
    return residual.diagonal(dim1=1, dim2=2)


def _drop(residual: Tensor) -> Tensor:
    own = _own(residual)
    return residual.square().sum(-1) / own.where(own > 0, 1)


def _greedy(
    kernel: Tensor, keep: int, criterion: Callable[[Tensor], Tensor], renew: bool = False
) -> Selected:
    """Picks by a criterion of what is left of a kernel [B, N, N]; explained tokens come last, by index."""
    residual, least = kernel, _LEFT * _own(kernel)
    kept = torch.zeros_like(least, dtype=torch.bool)
    for _ in range(keep):
        nothing = (_own(residual) <= least) | kept
        if renew:
            over = nothing.all(-1)[:, None, None]
            residual = kernel.where(over, residual)
            nothing = (_own(residual) <= least) | kept
        worth = criterion(residual).where(~nothing, 0).masked_fill(kept, -1)
        top = worth.amax(-1, keepdim=True)
        token = (worth >= top - _TIE * top.abs()).to(torch.uint8).argmax(-1, keepdim=True)
        kept = kept.scatter(1, token, True)
        row = residual.gather(1, token[..., None].expand(-1, -1, kernel.shape[1])).squeeze(1)
        pivot = row.gather(1, token)
        direction = (row / pivot.clamp_min(0).sqrt()).where(top > 0, 0)
        residual = residual - direction[:, :, None] * direction[:, None]
    return Selected(where_true(kept, keep))
