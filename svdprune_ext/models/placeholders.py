"""The token ids that stand for vision tokens in a prompt."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def placeholder_tokens(config: Any) -> list[int]:
    """The ids for images and, where the model takes them, videos."""
    tokens = [getattr(config, name, None) for name in ("image_token_id", "video_token_id")]
    return [token for token in tokens if token is not None]


def is_placeholder(ids: Tensor, config: Any) -> Tensor:
    """Where token ids stand for vision tokens, bool of the same shape."""
    return torch.stack([ids == token for token in placeholder_tokens(config)]).any(0)
