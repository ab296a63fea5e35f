"""What does the patch itself cost, without the operator?

Two measurements on the model of ``bench_prefill``, both with method "uniform", which computes no scores:
- the time spent inside the hooks of ``svdprune_ext.apply`` in a prefill that drops tokens;
- a prefill that keeps all tokens over the unpatched one beside it. That ratio has the noise of two whole
  prefills, which on a shared machine is more than what is looked for.

On a CPU, where a hook's time is the work's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from statistics import quantiles
from typing import Any

import torch
from torch import Tensor

import svdprune_ext
from bench.timing import median
from svdprune_ext.models.decoder import DecoderSide
from svdprune_ext.models.vision import VisionSide

KEEP = 32
MOST_ROUNDS = 200
# Those that do the work; what is left of the patch is calling them.
_HOOKS = (
    (VisionSide, "before_projector"),
    (VisionSide, "after_projector"),
    (VisionSide, "_mark"),
    (DecoderSide, "before_model"),
    (DecoderSide, "before_decoder"),
    (DecoderSide, "after_decoder"),
)


@torch.inference_mode()
def measure(model: Any, inputs: dict[str, Tensor], budget: float) -> dict[str, Any]:
    """Alternating rounds for so many seconds, at least five.

    Returns:
        ``keep``, ``rounds``, medians of the seconds of the ``unpatched`` prefill and of those inside the
        ``hooks``, and quartiles of the ratio of a patched prefill of all tokens to the unpatched one.
    """

    def prefill() -> float:
        start = time.perf_counter()
        model(**inputs, logits_to_keep=1, use_cache=True)
        return time.perf_counter() - start

    prefill()
    end = time.monotonic() + budget
    unpatched: list[float] = []
    ratios: list[float] = []
    inside: list[float] = []
    while len(inside) < 5 or (time.monotonic() < end and len(inside) < MOST_ROUNDS):
        before = prefill() if len(inside) % 2 else None
        with svdprune_ext.apply(model, keep=1.0, method="uniform"):
            patched = prefill()
        plain = prefill() if before is None else before
        with _timed_hooks() as seconds, svdprune_ext.apply(model, keep=KEEP, method="uniform"):
            prefill()
        unpatched.append(plain)
        ratios.append(patched / plain)
        inside.append(sum(seconds))
    return {
        "keep": KEEP,
        "rounds": len(inside),
        "unpatched": median(unpatched),
        "hooks": median(inside),
        "ratios": quantiles(ratios, n=4, method="inclusive"),
    }


@contextmanager
def _timed_hooks() -> Iterator[list[float]]:
    """Notes the seconds of each call of a hook; for patches applied within."""
    seconds: list[float] = []

    def timed(hook: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(hook)
        def run(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return hook(*args, **kwargs)
            finally:
                seconds.append(time.perf_counter() - start)

        return run

    originals = [(owner, name, getattr(owner, name)) for owner, name in _HOOKS]
    for owner, name, hook in originals:
        setattr(owner, name, timed(hook))
    try:
        yield seconds
    finally:
        for owner, name, hook in originals:
            setattr(owner, name, hook)
