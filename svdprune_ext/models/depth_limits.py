"""What pruning within the decoder does not go with."""

from __future__ import annotations

from typing import Any

import torch

from svdprune_ext.in_decoder.method import DecoderMethod
from svdprune_ext.models.layer_slots import capacity_of


def refuse(method: DecoderMethod, decoder: Any, cache: Any, counts: list[list[int]]) -> None:
    """Refuses a step before any work.

    Args:
        method: The method.
        decoder: The decoder.
        cache: The key-value cache, or None.
        counts: Number of tokens, vision tokens and text after the last of them, of each row.

    Raises:
        ValueError: It would not work.
    """
    if capacity_of(cache) is not None and "flash" in decoder.config._attn_implementation:
        raise ValueError(
            "svdprune_ext: past_key_values must be a cache that grows where vision tokens are dropped within "
            f"a decoder with flash attention, got {type(cache).__name__}"
        )
    if torch.compiler.is_compiling():
        raise ValueError(
            f"svdprune_ext: {method.name} drops vision tokens within the decoder, which torch.compile and "
            "torch.export do not take"
        )
    if decoder.training and getattr(decoder, "gradient_checkpointing", False):
        raise ValueError(
            f"svdprune_ext: {method.name} drops vision tokens within the decoder, which does not go with "
            "gradient checkpointing"
        )
    if any(vision and not text for _, vision, text in counts):
        raise ValueError(
            f"svdprune_ext: a prompt must have text after its last image for {method.name}, and be handed "
            "over in one piece (prefill_chunk_size left out)"
        )
