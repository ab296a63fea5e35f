"""The model families that ``apply`` knows, and where each keeps the parts it needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Family:
    """Where a family of VLMs keeps its parts.

    Attributes:
        model_class: Name of the transformers class.
        projector: The module between vision tower and language model: its input is the features
            [images, N, D] that are scored, its output [images, N, H] what the decoder reads.
        decoder: The language model without its head; it is called with ``inputs_embeds``.
        tokens_per_image: N, where it is one number for all images.
    """

    model_class: str
    projector: Callable[[Any], nn.Module]
    decoder: Callable[[Any], nn.Module]
    tokens_per_image: Callable[[Any], int]


def _llava_tokens(config: Any) -> int:
    patches = int((config.vision_config.image_size // config.vision_config.patch_size) ** 2)
    return patches + int(config.vision_feature_select_strategy == "full")


FAMILIES = (
    Family(
        model_class="LlavaForConditionalGeneration",
        projector=lambda model: model.model.multi_modal_projector,
        decoder=lambda model: model.get_decoder(),
        tokens_per_image=_llava_tokens,
    ),
)


def supported_models() -> list[str]:
    """Names of the transformers classes that ``apply`` takes."""
    return [family.model_class for family in FAMILIES]


def family_of(model: nn.Module) -> Family:
    """The family of a model.

    Raises:
        ValueError: The model belongs to none.
    """
    names = {cls.__name__ for cls in type(model).__mro__}
    for family in FAMILIES:
        if family.model_class in names:
            return family
    raise ValueError(
        f"apply: model must be one of {', '.join(supported_models())}, got {type(model).__name__}"
    )
