"""Whether what runs now will run again without Python, as it does from a compiled program."""

from __future__ import annotations

import torch


def is_captured() -> bool:
    """In a CUDA graph: nothing may depend on numbers that the device holds."""
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()
