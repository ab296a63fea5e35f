"""The key-value cache of what all prompts about an image begin with."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from svdprune_ext.models.cache import LAYOUT, cache_returned, note, rows_at
from svdprune_ext.models.noted_layout import noted_layout


def read_prefix(model: Any, prefix: Tensor, images: range) -> Any:
    """Has the model read the beginning of the prompts once for each image.

    Args:
        model: Its ``get_image_features`` takes numbers of images.
        prefix: Token ids of the beginning, the image's included [P].
        images: The numbers.

    Returns:
        The cache, a row for each image.
    """
    ids = prefix.to(model.device).expand(len(images), -1)
    numbers = torch.tensor(list(images), device=model.device)
    output = model(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        position_ids=torch.arange(ids.shape[1], device=model.device).expand(ids.shape),
        pixel_values=numbers,
        use_cache=True,
        logits_to_keep=1,
    )
    return cache_returned(output)


def rows_of(cache: Any, rows: Tensor) -> Any:
    """A cache of its own with some of the rows, and what ``apply`` noted of them."""
    from transformers import DynamicCache

    chosen = DynamicCache()
    for number, layer in enumerate(cache.layers):
        at = rows.to(layer.keys.device)
        chosen.update(layer.keys[at], layer.values[at], number)
    layout = noted_layout(cache, 0)
    if layout is not None:
        note(chosen, LAYOUT, layout.of_rows(rows_at(rows)))
    return chosen
