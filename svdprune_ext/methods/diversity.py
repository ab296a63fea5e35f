"""Rules that keep tokens unlike those already kept. All walk greedily, all images side by side."""

from __future__ import annotations

import torch
from torch import Tensor

from svdprune_ext.methods.method import Selected
from svdprune_ext.methods.options import Count
from svdprune_ext.methods.ranking import unit_rows, where_true, working


def divprune(x: Tensor, keep: int, attention: Tensor | None) -> Selected:
    """Greedy max-min diversity: each step adds ``argmax_i min_{j kept} (1 - cos(x_i, x_j))``.

    The first token is the one farthest from its nearest neighbour. The cosine of a zero row is taken as 0.

    Source: DivPrune, arXiv 2503.02175, its greedy solution of the max-min diversity problem.
    """
    directions = unit_rows(x)
    distance = 1 - directions @ directions.mT
    to_others = distance.diagonal_scatter(
        torch.full_like(distance[:, 0], torch.inf), dim1=1, dim2=2
    )
    nearest = to_others.amin(-1)
    kept = torch.zeros_like(nearest, dtype=torch.bool)
    for step in range(keep):
        token = nearest.masked_fill(kept, -torch.inf).argmax(-1, keepdim=True)
        kept = kept.scatter(1, token, True)
        row = distance.gather(1, token.unsqueeze(-1).expand(-1, -1, x.shape[1])).squeeze(1)
        nearest = row if step == 0 else nearest.minimum(row)
    return Selected(where_true(kept, keep))


def cdpruner(x: Tensor, keep: int, attention: Tensor | None) -> Selected:
    """Greedy MAP of a determinantal point process: each step adds ``argmax_i det L[kept + i]``.

    ``L_ij = r_i cos(x_i, x_j) r_j``. The paper's r is the relevance to the question, from a text encoder.
    That is left out here: r = 1, unless ``attention`` gives another relevance, which is then scaled to
    [0, 1] over the image as the paper scales its own. With r = 1 all tokens are level at first, so token 0
    is always kept. Once no token has anything left that the kept ones do not span, the lowest
    indices follow.

    Source: CDPruner, arXiv 2506.10967, its conditional kernel; the greedy inference of Chen et al., arXiv
    1709.05135, algorithm 1.
    """
    directions = unit_rows(x)
    if attention is not None:
        directions = directions * _to_unit_interval(working(attention)).unsqueeze(-1)
    kernel = directions @ directions.mT
    # What is left of each token's squared length outside the span of those kept. Rounding must not decide
    # between tokens of length 1 at first, nor between those of which nothing is left.
    rounding = 32 * torch.finfo(kernel.dtype).eps
    left = kernel.diagonal(dim1=1, dim2=2)
    left = left.where((left - 1).abs() > rounding, 1)
    kept = torch.zeros_like(left, dtype=torch.bool)
    factor = kernel.new_zeros(x.shape[0], keep, x.shape[1])  # rows of the kernel's Cholesky factor
    for step in range(keep):
        token = left.masked_fill(kept, -torch.inf).argmax(-1, keepdim=True)
        kept = kept.scatter(1, token, True)
        at_token = token.unsqueeze(1).expand(-1, step, -1)
        known = factor[:, :step].gather(2, at_token).mT @ factor[:, :step]
        row = kernel.gather(1, token.unsqueeze(-1).expand(-1, -1, x.shape[1])) - known
        pivot = left.gather(1, token)
        factor[:, step] = (row.squeeze(1) / pivot.sqrt()).where(pivot > 0, 0)
        left = left - factor[:, step].square()
        left = left.where(left > rounding, 0)
    return Selected(where_true(kept, keep))


def _to_unit_interval(relevance: Tensor) -> Tensor:
    """Over each row from its lowest to its highest; 1 where they are equal."""
    lowest, top = relevance.aminmax(dim=-1, keepdim=True)
    return ((relevance - lowest) / (top - lowest)).where(top > lowest, 1)


def dart(x: Tensor, keep: int, attention: Tensor | None, *, pivots: Count = 8) -> Selected:
    """Pivots, and the tokens that duplicate them least.

    The pivots are the tokens of highest norm; each in turn, the highest first, adds its share of tokens,
    those of lowest cosine to it among what is left. The shares are equal; the first pivots get what does not
    divide.

    The paper prunes inside the language model, takes the norm of its keys, and half of 8 pivots from the
    text. Here are no keys and no text: the norm is the L1 norm of the features, and all pivots are vision
    tokens.

    Options:
        pivots: Number of them; ``keep``, where that is smaller.

    Source: DART, arXiv 2502.11494, its pivots by norm and tokens of least duplication.
    """
    pivots = min(pivots, keep)
    directions = unit_rows(x)
    norms = torch.linalg.vector_norm(x, ord=1, dim=-1, dtype=torch.float64)
    pivot = norms.argsort(dim=1, descending=True, stable=True)[:, :pivots]
    kept = torch.zeros_like(norms, dtype=torch.bool).scatter(1, pivot, True)
    for i in range(pivots):
        share = (keep - pivots + pivots - 1 - i) // pivots
        direction = directions.gather(
            1, pivot[:, i : i + 1].unsqueeze(-1).expand(-1, -1, x.shape[-1])
        )
        cosine = (directions @ direction.mT).squeeze(-1).masked_fill(kept, torch.inf)
        kept = kept.scatter(1, cosine.argsort(dim=1, stable=True)[:, :share], True)
    return Selected(where_true(kept, keep))
