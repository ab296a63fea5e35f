"""Which text tokens judge the vision tokens: SparseVLM's raters, chosen once, before the first layer."""

from __future__ import annotations

import torch
from torch import Tensor

from svdprune_ext.in_decoder.places import mask_of, places_of, rows_at
from svdprune_ext.methods.ranking import working


def relevance(vision: Tensor, text: Tensor, is_vision: Tensor, is_text: Tensor) -> Tensor:
    """What each text token has to do with the image: the mean over v of ``softmax over t of (V T^T)_vt``.

    Args:
        vision: Embeddings of the vision tokens [B, N, D].
        text: Embeddings of the text tokens [B, T, D].
        is_vision: Which of them are no padding, bool [B, N].
        is_text: The same for the text, bool [B, T].

    Returns:
        [B, T], in float32 (float64 for float64 embeddings). A row sums to 1; it is 0 at its padding, and
        throughout where there are no vision tokens or no text.
    """
    products = working(vision) @ working(text).mT
    products = products.masked_fill(~is_text.unsqueeze(1), torch.finfo(products.dtype).min)
    shares = products.softmax(-1) * (is_vision.unsqueeze(2) & is_text.unsqueeze(1))
    return shares.sum(1) / is_vision.sum(1, keepdim=True).clamp_min(1)


def above_mean(shares: Tensor, is_text: Tensor) -> Tensor:
    """The text tokens above the mean of the text's shares; all of them where all are equal.

    Args:
        shares: [B, T].
        is_text: bool [B, T].

    Returns:
        bool [B, T].
    """
    mean = shares.sum(1, keepdim=True) / is_text.sum(1, keepdim=True).clamp_min(1)
    raters = is_text & (shares > mean)
    return torch.where(raters.any(1, keepdim=True), raters, is_text)


def text_raters(
    embeddings: Tensor, vision: Tensor, text: Tensor, most_vision: int, most_text: int
) -> Tensor:
    """SparseVLM's raters, bool [B, M].

    Args:
        embeddings: What the first decoder layer gets [B, M, D].
        vision: Which of it are vision tokens, bool [B, M].
        text: The text after the last of them; none in a row without, bool [B, M].
        most_vision: The most vision tokens of a row.
        most_text: The most tokens of text of a row.

    Source: SparseVLM, arXiv 2410.04417, section 3.2.
    """
    at_vision, at_text = places_of(vision, most_vision), places_of(text, most_text)
    is_vision, is_text = at_vision >= 0, at_text >= 0
    shares = relevance(
        rows_at(embeddings, at_vision), rows_at(embeddings, at_text), is_vision, is_text
    )
    raters = above_mean(shares, is_text)
    return mask_of(at_text.masked_fill(~raters, -1), embeddings.shape[1])


def last_token(valid: Tensor, vision: Tensor) -> Tensor:
    """The last token of each row that has vision tokens, bool [B, M].

    Args:
        valid: Which tokens are no padding, bool [B, M].
        vision: Which of them are vision tokens, bool [B, M].
    """
    place = torch.arange(valid.shape[1], device=valid.device)
    last = torch.where(valid, place, -1).amax(1, keepdim=True)
    return (place == last) & vision.any(1, keepdim=True)
