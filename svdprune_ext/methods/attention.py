"""Rules that follow the attention of the vision tower or of the language model."""

from __future__ import annotations

import torch
from torch import Tensor

from svdprune_ext.methods.method import Selected
from svdprune_ext.methods.ranking import highest, working


def cls_attention(x: Tensor, keep: int, attention: Tensor) -> Selected:
    """The tokens that [CLS] attends to most: ``s_i = mean over heads of softmax(q_cls K^T / sqrt(d))_i``.

    ``apply`` gives the attention of the layer that the features come from: LLaVA's last but one.

    Source: FasterVLM, arXiv 2412.01818, its [CLS] attention.
    """
    return _most_attended(attention, keep)


def fastv(x: Tensor, keep: int, attention: Tensor) -> Selected:
    """The tokens that are attended to most in decoder layer K; see ``fastv_scores``.

    The scoring and the selection only; ``apply(model, method="fastv")`` takes tokens out between two layers
    of the decoder.

    Source: FastV, arXiv 2403.06764, section 4.1.
    """
    return _most_attended(attention, keep)


def fastv_scores(attention: Tensor, first: int, tokens: int) -> Tensor:
    """The average attention that each vision token receives in one layer of the decoder.

    "The average attention-score one token received from all other tokens": the mean over the rows given, and
    over the heads. With all L rows it is the text's, but that a token's attention to itself counts as well;
    with the last row alone it is what public implementations rank by, and needs no L x L matrix.

    Args:
        attention: Softmax of the attention [B, heads, Q, L], of any Q >= 1 rows.
        first: Position of the first vision token among the L.
        tokens: Number of vision tokens N.

    Returns:
        [B, N], float32 (float64 for float64 attention).

    Raises:
        ValueError: The attention is not [B, heads, Q, L], or the vision tokens do not lie within L.

    Source: FastV, arXiv 2403.06764, section 4.1.
    """
    if attention.dim() != 4 or attention.shape[2] < 1:
        raise ValueError(
            f"fastv_scores: attention must be [B, heads, Q, L] with Q >= 1, got shape "
            f"{list(attention.shape)}"
        )
    length = attention.shape[3]
    if first < 0 or tokens < 0 or first + tokens > length:
        raise ValueError(
            f"fastv_scores: first and tokens must lie within L = {length}, got {first} and {tokens}"
        )
    return working(attention[..., first : first + tokens]).mean((1, 2))


def _most_attended(attention: Tensor, keep: int) -> Selected:
    scores = working(attention)
    return Selected(highest(scores, keep), scores=scores)


def attention_row(query: Tensor, key: Tensor, scale: float) -> Tensor:
    """Attention of one query to all keys, mean over heads.

    Args:
        query: [B, heads, d].
        key: [B, heads, L, d].
        scale: Factor of the products, ``1 / sqrt(d)`` as a rule.

    Returns:
        [B, L], float32 (float64 for float64 input).
    """
    products = working(key) @ working(query).unsqueeze(-1) * scale
    return products.squeeze(-1).softmax(-1).mean(1)


def attention_received(query: Tensor, key: Tensor, scale: float) -> Tensor:
    """Attention that each key receives, mean over queries and heads; one head's matrix at a time.

    Args:
        query: [B, heads, L, d].
        key: [B, heads, L, d].
        scale: Factor of the products, ``1 / sqrt(d)`` as a rule.

    Returns:
        [B, L], float32 (float64 for float64 input).
    """
    heads = zip(working(query).unbind(1), working(key).unbind(1), strict=True)
    received = [(q @ k.mT * scale).softmax(-1).mean(1) for q, k in heads]
    return torch.stack(received).mean(0)
