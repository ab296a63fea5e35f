"""The shipped weights and their processor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

FOLDER = Path(__file__).parent / "checkpoint"


def load(dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """Loads the model that the package ships.

    It is an ordinary checkpoint folder, so ``from_pretrained(tiny_vlm.FOLDER)`` does the same.

    Args:
        dtype: Of the weights, which are stored in float16.

    Returns:
        A ``LlavaForConditionalGeneration`` in eval mode on the CPU, and its ``LlavaProcessor``.

    Raises:
        ImportError: transformers is not installed (``pip install svdprune_ext[hf]``).
    """
    from transformers import LlavaForConditionalGeneration, LlavaProcessor

    model = LlavaForConditionalGeneration.from_pretrained(FOLDER, dtype=dtype)
    processor = LlavaProcessor.from_pretrained(FOLDER)
    return model.eval(), processor
