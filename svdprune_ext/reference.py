"""The method in plain torch: the float64 oracle, and the reference in the input's own precision.

``oracle_*`` is the specification of SVD-Prune (arXiv 2604.11530, section 3): slow, plain, in float64, one
image after the other; every backend is tested against it. ``reference_prune`` is the same method as one
would write it in PyTorch for use, batched and in the input's precision: benchmarks compare with it.
``oracle_rater_scores`` specifies ``rater_scores``, whole attention matrices and all, and
``oracle_rater_scores_by_head`` that of each head.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Decomposition(NamedTuple):
    """What the oracle knows of one image [N, D].

    Attributes:
        scores: Leverage of each token, float64 [N].
        rank: Number of leading directions r.
        energy: Squared singular values over the largest of them, descending, float64 [min(N, D)].
    """

    scores: Tensor
    rank: int
    energy: Tensor


def oracle_leverage(
    x: Tensor, variance: float = 0.9, rank: int | None = None, center: bool = False
) -> Decomposition:
    """Leverage scores of one image by a float64 SVD.

    Args:
        x: Vision tokens [N, D].
        variance: Share of the energy ``||x||_F^2`` that the leading directions hold, in (0, 1].
        rank: Number of leading directions; overrides ``variance``.
        center: Subtract the mean token first.

    Returns:
        The scores, the rank and the spectrum.
    """
    x = x.detach().double()
    if center:
        x = x - x.mean(dim=0, keepdim=True)
    if x.numel() == 0 or not x.any():
        return Decomposition(x.new_zeros(x.shape[0]), 0, x.new_zeros(min(x.shape)))

    # X = U S V^T
    u, s, _ = torch.linalg.svd(x, full_matrices=False)
    energy = (s / s[0]) ** 2  # over the largest, which can be beyond float64

    # The smallest r that holds the asked share of the energy.
    if rank is None:
        share = energy.cumsum(0) / energy.sum()
        rank = min(int((share < variance).sum().item()) + 1, len(s))

    # l_i = ||U[i, :r]||^2
    return Decomposition((u[:, :rank] ** 2).sum(dim=1), rank, energy)


def oracle_topk(scores: Tensor, keep: int) -> Tensor:
    """Indices [keep] of the highest scores [N], ascending; ties go to the lower index."""
    order = torch.argsort(scores, descending=True, stable=True)
    return order[:keep].sort().values


def oracle_coverage(scores: Tensor, max_keep: int, coverage: float) -> Tensor:
    """Indices, ascending, of the fewest tokens whose scores [N] sum to ``coverage`` of their total.

    At most ``max_keep``, and none with a score of 0. Ties go to the lower index.
    """
    order = torch.argsort(scores, descending=True, stable=True)
    covered = scores[order].cumsum(0)
    count = int((covered < coverage * scores.sum()).sum().item()) + 1
    return order[: min(count, max_keep, int((scores > 0).sum()))].sort().values


class Pivots(NamedTuple):
    """What the oracle of "pivoted" knows of one image [N, D].

    Attributes:
        order: The picks, in their order, int64 [picks].
        shares: Of the energy, what each of them added to what the picks before it hold, float64 [picks].
        rank: How many of them had something of their own left; the others follow by their index.
    """

    order: Tensor
    shares: Tensor
    rank: int


def oracle_pivoted(
    x: Tensor, keep: int, coverage: float = 0.0, center: bool = False, eps: float = 2.0**-23
) -> Pivots:
    """Greedy choice of rows with deflation, in float64, on the rows themselves.

    Args:
        x: Vision tokens [N, D].
        keep: The most tokens to pick.
        coverage: Stop when the picks hold this share of the energy, in (0, 1]; 0 picks ``keep``.
        center: Subtract the mean token first.
        eps: Rounding of the precision that is to be judged: what is left of a token below 128 eps of its
            squared length is nothing, and what differs by less than 32 eps is equal.

    Returns:
        The picks.
    """
    x = x.detach().double()
    if center:
        x = x - x.mean(dim=0, keepdim=True)
    x = x / x.abs().max() if x.any() else x
    left, energy = x.clone(), x.square().sum()  # what is left of each row outside the picks' span
    least = 128 * eps * x.square().sum(1)
    order: list[int] = []
    shares: list[float] = []
    while len(order) < keep and (coverage == 0 or sum(shares) < coverage):
        squares = left.square().sum(1)
        squares[squares <= least] = 0
        squares[order] = 0
        if not squares.any():
            break
        pick = int((squares >= squares.max() * (1 - 32 * eps)).nonzero()[0])
        direction = left[pick] / left[pick].norm()
        along = left @ direction
        left = left - along[:, None] * direction
        order.append(pick)
        shares.append(float(along.square().sum() / energy))
    rank = len(order)
    if coverage == 0:
        rest = [i for i in range(len(x)) if i not in order][: keep - rank]
        order, shares = order + rest, shares + [0.0] * len(rest)
    return Pivots(torch.tensor(order, dtype=torch.int64), x.new_tensor(shares), rank)


def oracle_energy(x: Tensor, indices: Tensor) -> float:
    """Share of ``||x||_F^2`` in the span of the rows of x [N, D] at ``indices`` [K]; 0 where x is zero."""
    x = x.detach().double()
    x = x / x.abs().max() if x.numel() and x.any() else x
    _, s, directions = torch.linalg.svd(x[indices], full_matrices=False)
    held = x @ directions[s > 1e-10 * s.max()].mT if len(indices) else x.new_zeros(1)
    return float(held.square().sum() / x.square().sum().clamp_min(1e-300))


def reference_prune(
    x: Tensor, keep: int, variance: float = 0.9
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """SVD-Prune in plain PyTorch, in the input's precision (float32 for 16-bit input), batched.

    Args:
        x: Vision tokens [B, N, D].
        keep: Number of tokens to keep.
        variance: Share of the energy that the leading directions hold.

    Returns:
        tokens [B, keep, D], indices [B, keep], scores [B, N], rank [B], as the operator's.
    """
    work = x if x.dtype in (torch.float32, torch.float64) else x.float()
    u, s, _ = torch.linalg.svd(work, full_matrices=False)
    energy = s.square()
    share = energy.cumsum(-1) / energy.sum(-1, keepdim=True)
    rank = (share < variance).sum(-1) + 1
    head = torch.arange(s.shape[-1], device=x.device) < rank[:, None]
    scores = (u.square() * head[:, None, :]).sum(-1)
    indices = scores.topk(keep, dim=-1).indices.sort(dim=-1).values
    tokens = x.gather(1, indices[..., None].expand(-1, -1, x.shape[-1]))
    return tokens, indices, scores, rank


def gram_eigh_prune(
    x: Tensor,
    keep: int,
    variance: float = 0.9,
    eigh: Callable[[Tensor], tuple[Tensor, Tensor]] = torch.linalg.eigh,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The same by ``torch.linalg.eigh`` of the Gram matrix: what a careful PyTorch user would write.

    Arguments and results as ``reference_prune``; ``eigh`` may be another library's. Works on the smaller of
    N x N and D x D.
    """
    work = x if x.dtype in (torch.float32, torch.float64) else x.float()
    on_tokens = x.shape[1] <= x.shape[2]
    gram = work @ work.mT if on_tokens else work.mT @ work
    energy, vectors = eigh(gram)
    energy, vectors = energy.flip(-1).clamp_min(0), vectors.flip(-1)
    share = energy.cumsum(-1) / energy.sum(-1, keepdim=True)
    rank = (share < variance).sum(-1) + 1
    head = torch.arange(energy.shape[-1], device=x.device) < rank[:, None]
    if not on_tokens:
        vectors = work @ (
            vectors / energy.clamp_min(torch.finfo(energy.dtype).tiny).sqrt()[:, None]
        )
    scores = (vectors.square() * head[:, None, :]).sum(-1)
    indices = scores.topk(keep, dim=-1).indices.sort(dim=-1).values
    tokens = x.gather(1, indices[..., None].expand(-1, -1, x.shape[-1]))
    return tokens, indices, scores, rank


def oracle_rater_scores(
    q: Tensor,
    k: Tensor,
    raters: Tensor,
    visual: Tensor,
    *,
    mask: Tensor | None = None,
    causal: bool = True,
    scale: float | None = None,
    head_weights: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """``rater_scores`` by the whole attention [B, H, L, S] in float64; arguments and results are its own."""
    batch, heads = q.shape[:2]
    attention = _oracle_attention(q, k, mask, causal, scale)
    weights = q.new_full((batch, heads), 1 / heads, dtype=torch.float64)
    if head_weights is not None:
        weights = head_weights.double()
    scores = q.new_zeros((batch, visual.shape[1]), dtype=torch.float64)
    paid = q.new_zeros((batch, *raters.shape[1:], *visual.shape[1:]), dtype=torch.float64)
    head_mass = torch.zeros_like(weights)
    for b in range(batch):
        rows, columns = raters[b] >= 0, visual[b] >= 0
        if not rows.any():
            continue
        per_head = attention[b][:, raters[b][rows]][:, :, visual[b][columns]]  # [H, raters, N]
        of_raters = (weights[b][:, None, None] * per_head).sum(0)
        paid[b][rows[:, None] & columns] = of_raters.flatten()
        scores[b][columns] = of_raters.mean(0)
        head_mass[b] = per_head.sum(-1).mean(-1).masked_fill(weights[b] == 0, 0)
    return scores, paid, head_mass


def oracle_rater_scores_by_head(
    q: Tensor,
    k: Tensor,
    raters: Tensor,
    visual: Tensor,
    *,
    mask: Tensor | None = None,
    causal: bool = True,
    scale: float | None = None,
    divisor: Tensor | None = None,
) -> Tensor:
    """``rater_scores_by_head`` by the whole attention [B, H, L, S] in float64; all else is its own."""
    batch, heads = q.shape[:2]
    attention = _oracle_attention(q, k, mask, causal, scale)
    scores = q.new_zeros((batch, heads, visual.shape[1]), dtype=torch.float64)
    for b in range(batch):
        rows, columns = raters[b] >= 0, visual[b] >= 0
        if not rows.any():
            continue
        paid = attention[b][:, raters[b][rows]][:, :, visual[b][columns]]  # [H, raters, N]
        if divisor is not None:
            of_prompt = divisor.double()[b if len(divisor) > 1 else 0][rows][:, columns]
            paid = torch.where(paid == 0, 0, paid / of_prompt)
        scores[b][:, columns] = paid.mean(1)
    return scores


def _oracle_attention(
    q: Tensor, k: Tensor, mask: Tensor | None, causal: bool, scale: float | None
) -> Tensor:
    """Attention of all queries to all keys, float64 [B, H, L, S]; 0 where a query does not see."""
    heads, length, width = q.shape[1:]
    keys = k.shape[2]
    k = k.double().repeat_interleave(heads // k.shape[1], dim=1)
    logits = q.double() @ k.mT * (width**-0.5 if scale is None else scale)

    seen = torch.ones_like(logits, dtype=torch.bool)
    if causal:
        seen &= seen.tril(keys - length)
    if mask is not None:
        seen &= mask[:, None, None, :] if mask.dim() == 2 else mask
    attention = logits.masked_fill(~seen, -torch.inf).softmax(-1)
    # A row that sees nothing is 0 / 0; a NaN that comes of q or k stays.
    return attention.masked_fill(~seen, 0)
