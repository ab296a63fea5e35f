"""The parts of a prefill, and how long each takes: marks that hooks set, on a GPU by CUDA events."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

PARTS = {
    "vision tower": ("tower", "tower end"),
    "pruning": ("features", "pruned"),
    "projector": ("pruned", "projected"),
    "prefill": ("decoder", "logits"),
    "total": ("tower", "logits"),
}


class Marks:
    """Points in time by name: CUDA events on a GPU, the host's clock elsewhere."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._at: dict[str, Any] = {}

    def __call__(self, name: str) -> None:
        """Marks this point of the current stream."""
        if self._device.type != "cuda":
            self._at[name] = time.perf_counter()
            return
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        self._at[name] = event

    def seconds(self) -> dict[str, float]:
        """Seconds of each of ``PARTS`` that was marked; waits for the device."""
        at = self._at
        marked = {part: ends for part, ends in PARTS.items() if at.keys() >= set(ends)}
        if self._device.type != "cuda":
            return {part: at[end] - at[start] for part, (start, end) in marked.items()}
        torch.cuda.synchronize(self._device)
        return {
            part: at[start].elapsed_time(at[end]) / 1e3 for part, (start, end) in marked.items()
        }


@contextmanager
def marking(model: Any, mark: Marks) -> Iterator[Callable[[], None]]:
    """Hooks that mark the parts; what it yields is to be called once the pruning is in place."""
    tower, projector = model.model.vision_tower, model.model.multi_modal_projector
    handles = [
        tower.register_forward_pre_hook(lambda *_: mark("tower")),
        tower.register_forward_hook(lambda *_: mark("tower end")),
        projector.register_forward_pre_hook(lambda *_: mark("features")),
        model.model.language_model.register_forward_pre_hook(lambda *_: mark("decoder")),
        model.lm_head.register_forward_hook(lambda *_: mark("logits")),
    ]

    def hook_pruned() -> None:
        # Hooks run in the order of their registration: these after the pruning's own.
        handles.append(projector.register_forward_pre_hook(lambda *_: mark("pruned")))
        handles.append(projector.register_forward_hook(lambda *_: mark("projected")))

    try:
        yield hook_pruned
    finally:
        for handle in handles:
            handle.remove()


@torch.inference_mode()
def by_hand(model: Any, embeddings: Tensor) -> float:
    """Seconds of the part "prefill" of an unpatched model that is handed its tokens.

    Args:
        model: As from ``bench_prefill.build_model``.
        embeddings: Of the prompts, [B, n, D].
    """
    mark = Marks(model.device)
    mask = torch.ones(embeddings.shape[:2], dtype=torch.long, device=model.device)
    with marking(model, mark):
        model(inputs_embeds=embeddings, attention_mask=mask, logits_to_keep=1, use_cache=True)
    return mark.seconds()["prefill"]
