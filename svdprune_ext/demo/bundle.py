"""A model and its processor, however they came to be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Bundle:
    """A LLaVA model, ready to be asked.

    Attributes:
        model: A ``LlavaForConditionalGeneration`` in evaluation mode.
        processor: The processor that goes with it.
        name: What to call it.
        meaningful: Whether its answers mean anything: False for random weights.
        prompt: What makes a prompt of a question; None takes the processor's chat template, or LLaVA-1.5's.
    """

    model: Any
    processor: Any
    name: str
    meaningful: bool
    prompt: Callable[[str], str] | None = None


def num_vision_tokens(config: Any) -> int:
    """Vision tokens of an image: one a patch, and [CLS] where the model keeps it.

    Args:
        config: The model's ``LlavaConfig``.

    Returns:
        Their number; 576 for LLaVA-1.5.
    """
    side = int(config.vision_config.image_size // config.vision_config.patch_size)
    return side**2 + int(config.vision_feature_select_strategy == "full")


def pick_device() -> torch.device:
    """CUDA where torch sees a GPU and svdprune_ext has the backend for it; else the CPU."""
    import svdprune_ext

    usable = svdprune_ext.has_cuda and torch.cuda.is_available()
    return torch.device("cuda" if usable else "cpu")
