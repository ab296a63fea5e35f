"""A whole prefill as one CUDA graph: what is left when the host does not launch its kernels one by one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

import svdprune_ext
from bench.gpu_timing import EventTimer, captured, first_line
from bench.timing import median

ROUNDS = 7


@contextmanager
def without_placeholder_check(model: Any) -> Iterator[None]:
    """A LLaVA that takes the number of placeholders for right.

    transformers reads it on the host, for the message of an error that may not come, so a prompt cannot be
    captured.
    """

    def mask(input_ids: Tensor, inputs_embeds: Tensor, image_features: Tensor) -> Tensor:
        return (input_ids == model.config.image_token_id).unsqueeze(-1)

    model.model.get_placeholder_mask = mask
    try:
        yield
    finally:
        del model.model.get_placeholder_mask


@torch.inference_mode()
def graphed(
    model: Any, inputs: dict[str, Tensor], arguments: dict[str, Any] | None
) -> dict[str, Any]:
    """Captures one prefill with these arguments of ``apply``; None is the model as it is.

    Returns:
        ``graph``, the median of its replays in seconds, or None, and ``not_captured``, the reason, or None.
    """
    handle = None
    try:
        if arguments is not None:
            handle = svdprune_ext.apply(model, **arguments)
        with without_placeholder_check(model):
            replay = captured(lambda: model(**inputs, logits_to_keep=1, use_cache=True).logits)
    except Exception as error:
        return {"graph": None, "not_captured": first_line(error)}
    finally:
        if handle is not None:
            handle.remove()
    time_once = EventTimer()
    time_once(replay)
    return {"graph": median([time_once(replay) for _ in range(ROUNDS)]), "not_captured": None}
