"""Rows of a layer's attention: those of the raters, at the columns of the vision tokens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from svdprune_ext.rater import RaterScores, rater_scores


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
        turns: What RoPE makes of a vector of ones at each of the M, [B or 1, M, d].
    """

    query: Tensor
    key: Tensor
    scale: float
    raters: Tensor
    visual: Tensor
    valid: Tensor
    turns: Tensor

    @property
    def visual_queries(self) -> Tensor:
        """Places of the vision tokens among the M, int64 [B, N]; negative is padding."""
        return self.visual - (self.key.shape[2] - self.query.shape[2])

    def scores(self) -> RaterScores:
        """The raters' attention to the vision tokens, mean over heads."""
        return self._scores(self.query, self.key)

    def heads(self) -> Iterator[Tensor]:
        """The same of one head after the other [B, R, N]."""
        shared = self.query.shape[1] // self.key.shape[1]
        for head in range(self.query.shape[1]):
            own = head // shared
            yield self._scores(self.query[:, head : head + 1], self.key[:, own : own + 1]).attention

    def _scores(self, query: Tensor, key: Tensor) -> RaterScores:
        return rater_scores(query, key, self.raters, self.visual, mask=self.valid, scale=self.scale)


def mean_over_raters(attention: Tensor, raters: Tensor) -> Tensor:
    """[B, R, N], places [B, R] -> the mean over a row's raters [B, N]; 0 where there are none."""
    return attention.sum(1) / (raters >= 0).sum(1, keepdim=True).clamp_min(1)
