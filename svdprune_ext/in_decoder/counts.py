"""How many vision tokens remain after each pruning layer, and which layers those are.

Published numbers are for 576 vision tokens and 32 layers. A nominal number of tokens is an average over
layers, to which the first ones contribute all tokens, so the stages end far below it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

PUBLISHED_DEPTH = 32  # layers of the decoder that the published layers are for
LAYERS = {"1.0": (2, 6, 15, 19), "1.5": (2, 6, 15), "2.0": (2, 6, 15)}
SCHEDULES = {
    "1.5": {192: (300, 200, 110), 128: (303, 110, 36), 96: (238, 48, 26), 64: (66, 30, 17)},
    "2.0": {192: (300, 200, 118), 128: (238, 108, 60), 96: (246, 54, 28), 64: (66, 34, 20)},
}
RANK_SCALE_AND_BIAS = {192: (13.5, 0.0), 128: (9.0, 6.0), 64: (0.8, 0.0)}


def layers_at_depth(published: Sequence[int], depth: int) -> tuple[int, ...]:
    """Pruning layers of a decoder of another depth, 0-based, in proportion.

    Layer l of 32 ends at the share (l + 1) / 32 of the depth. Two that would fall on one layer, or on the
    last, part ways.

    Raises:
        ValueError: The decoder has too few layers.
    """
    if depth <= len(published):
        raise ValueError(
            f"apply: layers must be given for a decoder of {depth} layers, too few for the {len(published)} "
            "published ones"
        )
    layers: list[int] = []
    for number, layer in enumerate(published):
        nearest = math.floor((layer + 1) * depth / PUBLISHED_DEPTH + 0.5) - 1
        first = layers[-1] + 1 if layers else 0
        layers.append(min(max(nearest, first), depth - 1 - len(published) + number))
    return tuple(layers)


def fixed_count(budget: int | float, tokens: int, at_first: int) -> int:
    """Tokens kept of ``tokens``: a number, or a share of the ``at_first`` of the first layer, rounded up."""
    if isinstance(budget, int):
        return min(budget, tokens)
    # 0.07 of 100 tokens are 7, although 0.07 * 100 > 7 in floating point.
    return min(max(1, math.ceil(budget * at_first - 1e-9)), tokens)


def numerical_ranks(matrices: Tensor, columns: Sequence[int]) -> list[int]:
    """How many singular values exceed ``max(r, n) * eps * largest``: as ``torch.linalg.matrix_rank``.

    Of each matrix by itself, r x n without its padding: what it is padded to must not change its rank.

    From the eigenvalues of M M^T in float64, where squares lose nothing that counts: R x R matrices, R
    being some twenty raters, formed on the device and solved on the CPU, in the one wait that the counts
    take anyway. An SVD of each matrix on a GPU takes milliseconds.

    Args:
        matrices: M [B, R, N], float32; rows and columns of zeros are padding.
        columns: n of each matrix.
    """
    wide = matrices.double()
    products = (wide @ wide.mT).cpu()
    squares = torch.linalg.eigvalsh(products)
    rows = (products.diagonal(dim1=1, dim2=2) > 0).sum(1).double()
    tolerance = rows.maximum(torch.tensor(columns)) * torch.finfo(matrices.dtype).eps
    ranks: list[int] = (squares > tolerance.square()[:, None] * squares[:, -1:]).sum(1).tolist()
    return ranks


def rank_counts(attention: Tensor, scale: float, bias: float, tokens: Sequence[int]) -> list[int]:
    """Version 1.0: ``min(int(rank(P) * scale + bias), n - 1)`` of each row's n tokens; all at full rank.

    Waits for the device.

    Args:
        attention: P [B, raters, N], the raters' attention to the vision tokens, mean over heads; zeros at
            padding, which do not change its rank.
        scale: Tokens kept for each direction.
        bias: Tokens kept beside them.
        tokens: n of each row.
    """
    ranks = numerical_ranks(attention.float(), tokens)
    return [
        n if rank >= n else min(int(rank * scale + bias), n - 1)
        for rank, n in zip(ranks, tokens, strict=True)
    ]


def recycled_counts(dropped: int) -> tuple[int, int]:
    """How many of the dropped tokens are taken in again, and into how many clusters they are merged."""
    if dropped == 0:
        return 0, 0
    candidates = int(dropped * 0.3) + 1
    return candidates, candidates // 10 + 1
