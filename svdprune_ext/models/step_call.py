"""What the base model is called with in a step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

_ENCODED = "mm_encoder_outputs"  # of images, ahead of the step
_IMAGES = ("pixel_values", "pixel_values_videos", "image_hidden_states", _ENCODED)


@dataclass(frozen=True)
class StepCall:
    """What a step was called with, as far as it tells whether tokens were dropped; by default all may be.

    Attributes:
        ids: Token ids [B, at least q]; None where embeddings were handed over.
        is_ahead: Whether images may have been encoded before the step.
        may_drop: Whether there may be images.
    """

    ids: Tensor | None = None
    is_ahead: bool = True
    may_drop: bool = True

    @classmethod
    def of(cls, kwargs: dict[str, Any]) -> StepCall:
        """From the arguments of the base model."""
        if kwargs.get("inputs_embeds") is not None:
            return cls()
        has_images = any(kwargs.get(name) is not None for name in _IMAGES)
        return cls(kwargs.get("input_ids"), kwargs.get(_ENCODED) is not None, has_images)


def rows_and_length(kwargs: dict[str, Any]) -> tuple[int, int]:
    """Rows of the batch that the base model is called with, and new positions of each."""
    ids = kwargs.get("input_ids")
    rows, length = (kwargs["inputs_embeds"] if ids is None else ids).shape[:2]
    return rows, length


def without_first(kwargs: dict[str, Any], count: int) -> dict[str, Any]:
    """The arguments of the base model without the first positions."""
    if count == 0:
        return kwargs
    kwargs = dict(kwargs)
    for name in ("input_ids", "position_ids", "token_type_ids", "mm_token_type_ids"):
        if kwargs.get(name) is not None:
            kwargs[name] = kwargs[name][..., count:]
    if kwargs.get("inputs_embeds") is not None:
        kwargs["inputs_embeds"] = kwargs["inputs_embeds"][:, count:]
    return kwargs
