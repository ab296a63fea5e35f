"""Rows of a layer's attention: those of the raters, at the columns of the vision tokens."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from svdprune_ext.rater import RaterScores, rater_scores, rater_scores_by_head


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
        return rater_scores(
            self.query, self.key, self.raters, self.visual, mask=self.valid, scale=self.scale
        )

    def scores_by_head(self, divisor: Tensor) -> Tensor:
        """The same of each head, divided by [B, R, N] and averaged over the raters: [B, H, N]."""
        return rater_scores_by_head(
            self.query,
            self.key,
            self.raters,
            self.visual,
            mask=self.valid,
            scale=self.scale,
            divisor=divisor,
        )
