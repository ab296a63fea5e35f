"""A trained tiny VLM and its processor, from their folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

SHIPPED = Path(__file__).parent / "checkpoint"


def load(folder: str | Path | None = None, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """Loads the tiny VLM of the package, or what ``python -m bench.tiny_vlm.train --out folder`` wrote.

    Args:
        folder: Holds model and processor, an ordinary checkpoint folder. None takes the package's own.
        dtype: Of the weights, which are stored in float16.

    Returns:
        A ``LlavaForConditionalGeneration`` in eval mode on the CPU, and its ``LlavaProcessor``.

    Raises:
        ValueError: The folder holds no checkpoint.
        ImportError: transformers is not installed (``pip install svdprune_ext[hf]``).
    """
    from transformers import LlavaForConditionalGeneration, LlavaProcessor

    folder = SHIPPED if folder is None else Path(folder)
    if not (folder / "config.json").is_file():
        raise ValueError(f"tiny_vlm.load: folder must hold a checkpoint, got {str(folder)!r}")
    model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=dtype)
    return model.eval(), LlavaProcessor.from_pretrained(folder)
