"""What the methods have in common: numbers in working precision, ranks, and masks as indices."""

from __future__ import annotations

import torch
from torch import Tensor


def working(x: Tensor) -> Tensor:
    """The same numbers, detached, in float64 for float64 and in float32 for all others."""
    return x.detach() if x.dtype == torch.float64 else x.detach().float()


def unit_rows(x: Tensor) -> Tensor:
    """Rows of x [B, N, D] over their length; zero rows stay zero. Neither overflows nor underflows."""
    x = working(x)
    largest = x.abs().amax(-1, keepdim=True)
    return torch.nn.functional.normalize(x / largest.where(largest > 0, 1), dim=-1)


def highest(scores: Tensor, keep: int) -> Tensor:
    """Indices [B, keep], ascending, of the highest scores [B, N]; of equal ones, the first."""
    return scores.argsort(dim=1, descending=True, stable=True)[:, :keep].sort(dim=1).values


def where_true(mask: Tensor, count: int) -> Tensor:
    """Indices [B, count], ascending, where bool [B, N] is true, which is ``count`` times in each row."""
    return (~mask).to(torch.uint8).argsort(dim=1, stable=True)[:, :count].contiguous()


def rows_at(x: Tensor, indices: Tensor) -> Tensor:
    """Rows [B, K, D] of x [B, N, D] at indices [B, K]."""
    return x.gather(1, indices.unsqueeze(-1).expand(-1, -1, x.shape[-1]))
