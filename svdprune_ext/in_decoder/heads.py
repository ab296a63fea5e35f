"""SparseVLM+: attention freed of what position alone gives, from the heads that look at the image most."""

from __future__ import annotations

from torch import Tensor

from svdprune_ext.in_decoder.attention import LayerCall
from svdprune_ext.in_decoder.places import rows_at
from svdprune_ext.methods.ranking import working


def position_products(turns: Tensor, raters: Tensor, visual: Tensor, scale: float) -> Tensor:
    """What RoPE alone makes of equal queries and keys: ``(R_i 1) . (R_j 1) * scale``, [B, R, N].

    It is the product before the softmax, as in the published code, and can be negative far away.

    Args:
        turns: ``R_i 1``, what RoPE makes of a vector of ones at each place [B, M, d].
        raters: Places [B, R].
        visual: Places [B, N].
        scale: As in the attention.
    """
    return rows_at(turns, raters) @ rows_at(turns, visual).mT * scale


def scores_of_best_heads(call: LayerCall, heads: int) -> Tensor:
    """Mean over raters and over the ``heads`` heads of most mass, each divided by the position-only products.

    Mass is the sum over raters and vision tokens after that division; of equal ones the lower head wins. All
    of fewer heads count.

    Args:
        call: The pruning layer's.
        heads: 14 in the published code, of 32.

    Returns:
        [B, N]; 0 at padding.

    Source: SparseVLM+, arXiv 2410.04417 (version 2), sections 4.2 and 4.3.
    """
    turns = working(call.turns).expand(call.query.shape[0], -1, -1)
    alone = position_products(turns, call.raters, call.visual_queries, call.scale)
    by_head = call.scores_by_head(alone)
    mass = by_head.sum(-1)
    best = mass.argsort(dim=1, descending=True, stable=True)[:, :heads]
    return by_head.gather(1, best.unsqueeze(-1).expand(-1, -1, by_head.shape[-1])).mean(1)
