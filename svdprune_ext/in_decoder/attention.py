"""Rows of a layer's attention: those of the raters, at the columns of the vision tokens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from svdprune_ext.in_decoder.places import rows_at
from svdprune_ext.methods.ranking import working


@dataclass(frozen=True)
class LayerCall:
    """What one pruning layer's attention was called with, and whom to look at.

    Attributes:
        query: After RoPE [B, H, M, d].
        key: After RoPE, what the cache held first [B, G, S, d]; H is a multiple of G.
        scale: Factor of the products.
        raters: Places among the M, int64 [B, R]; -1 is padding.
        visual: Places of the vision tokens among the S, int64 [B, N]; -1 is padding.
        valid: Which of the S are no padding, bool [B, S].
        queries_first: Place among the S of the first of the M.
        turns: What RoPE makes of a vector of ones at each of the M, [B or 1, M, d].
    """

    query: Tensor
    key: Tensor
    scale: float
    raters: Tensor
    visual: Tensor
    valid: Tensor
    queries_first: int
    turns: Tensor

    @property
    def visual_queries(self) -> Tensor:
        """Places of the vision tokens among the M, int64 [B, N]; negative is padding."""
        return self.visual - self.queries_first

    def allowed(self) -> Tensor:
        """Who sees whom, bool [B, R, S]: causal, without padding."""
        place = torch.arange(self.key.shape[2], device=self.key.device)
        last_seen = self.raters.clamp_min(0).unsqueeze(2) + self.queries_first
        return (place <= last_seen) & self.valid.unsqueeze(1)

    def heads(self) -> Iterator[Tensor]:
        """Attention of one head after the other [B, R, N]; zero at padding. Beside it [B, R, S] is held."""
        allowed, shared = self.allowed(), self.query.shape[1] // self.key.shape[1]
        real = (self.raters >= 0).unsqueeze(2) & (self.visual >= 0).unsqueeze(1)
        columns = self.visual.clamp_min(0).unsqueeze(1).expand(-1, self.raters.shape[1], -1)
        for head in range(self.query.shape[1]):
            rows = working(rows_at(self.query[:, head], self.raters))
            products = rows @ working(self.key[:, head // shared]).mT * self.scale
            never = torch.finfo(products.dtype).min
            weights = products.masked_fill(~allowed, never).softmax(-1)
            yield weights.gather(2, columns) * real


def mean_over_heads(call: LayerCall) -> Tensor:
    """P [B, R, N]: attention of the raters to the vision tokens, mean over heads; zero at padding."""
    total = None
    for head in call.heads():
        total = head if total is None else total + head
    assert total is not None
    return total / call.query.shape[1]


def mean_over_raters(attention: Tensor, raters: Tensor) -> Tensor:
    """[B, R, N], places [B, R] -> the mean over a row's raters [B, N]; 0 where there are none."""
    return attention.sum(1) / (raters >= 0).sum(1, keepdim=True).clamp_min(1)
