"""The token ids that stand for vision tokens in a prompt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def placeholder_tokens(config: Any) -> list[int]:
    """The ids for images and, where the model takes them, videos."""
    tokens = [getattr(config, name, None) for name in ("image_token_id", "video_token_id")]
    return [token for token in tokens if token is not None]


def prompt_among(kwargs: Mapping[str, Any]) -> Tensor | None:
    """The prompt that a model was called with: embeddings [B, L, H], else ids [B, L]; None without one."""
    embeds: Tensor | None = kwargs.get("inputs_embeds")
    return kwargs.get("input_ids") if embeds is None else embeds


def is_placeholder(prompt: Tensor, base: Any) -> Tensor:
    """Where a prompt has tokens that stand for vision tokens; see ``is_token``."""
    return torch.stack([is_token(prompt, t, base) for t in placeholder_tokens(base.config)]).any(0)


def is_token(prompt: Tensor, token: int, base: Any) -> Tensor:
    """Where a prompt, ids [B, L] or their embeddings [B, L, H] by the model, has a token, bool [B, L]."""
    if prompt.dim() == 2:
        return prompt == token
    row: Tensor = base.get_input_embeddings()(torch.tensor(token, device=prompt.device))
    return (prompt == row).all(-1)
