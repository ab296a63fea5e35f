"""What pruning within the decoder does not go with."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from svdprune_ext.in_decoder.method import DecoderMethod
from svdprune_ext.models.cache import capacity_of
from svdprune_ext.models.own import put
from svdprune_ext.models.placeholders import prompt_among

_IMAGES = ("pixel_values", "pixel_values_videos", "inputs_embeds")


def refuse_pieces(method: DecoderMethod, model: Any) -> Callable[[], None]:
    """Makes ``generate`` refuse to cut a prompt with images into pieces: raters are chosen from all its text.

    Modifications: ``generate`` of the model, on the instance.

    Returns:
        What undoes it.
    """
    original = model.generate

    @functools.wraps(original)
    def generate(
        inputs: Any = None, generation_config: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        config = generation_config or model.generation_config
        piece = kwargs.get("prefill_chunk_size", getattr(config, "prefill_chunk_size", None))
        prompt = prompt_among({"input_ids": inputs, **kwargs})
        has_images = any(kwargs.get(name) is not None for name in _IMAGES)
        if piece is not None and has_images and prompt is not None and piece < prompt.shape[1]:
            raise ValueError(
                f"svdprune_ext: prefill_chunk_size must be at least the {prompt.shape[1]} tokens of the "
                f"prompt for {method.name}, which goes by all of its text, got {piece}"
            )
        return original(inputs, generation_config, *args, **kwargs)

    return put(model, "generate", generate)


def refuse_programs(method: DecoderMethod) -> None:
    """Refuses to be traced.

    Raises:
        ValueError: torch.compile or torch.export is at work.
    """
    if torch.compiler.is_compiling():
        raise ValueError(
            f"svdprune_ext: {method.name} drops vision tokens within the decoder, which torch.compile and "
            "torch.export of a prompt do not take"
        )


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
            "svdprune_ext: the cache must be one that grows where vision tokens are dropped within "
            f"a decoder with flash attention, got {type(cache).__name__}"
        )
    if decoder.training and getattr(decoder, "gradient_checkpointing", False):
        raise ValueError(
            f"svdprune_ext: {method.name} drops vision tokens within the decoder, which does not go with "
            "gradient checkpointing"
        )
    if any(vision and not text for _, vision, text in counts):
        raise ValueError(
            f"svdprune_ext: a prompt must have text after its last image for {method.name}, and be handed "
            "over in one piece"
        )
