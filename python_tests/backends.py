"""The two that the tests of the CUDA backend run on: a GPU, and the emulation on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

import emulated_backend
import pytest
import torch
from cuda_calls import why_not
from samples import Sample, samples
from torch import Tensor


@dataclass(frozen=True)
class Backend:
    """Where tensors have to be for the operators to run on CUDA's backend."""

    name: str
    device: str
    state: emulated_backend.State | None = None  # of the emulation

    def put(self, value: Any) -> Any:
        """A tensor on the backend's device; anything else as it is."""
        return value.to(self.device) if isinstance(value, Tensor) else value

    @property
    def has_room_for_images(self) -> bool:
        """Whether a block has the shared memory that solver "tridiag" wants for up to 576 tokens."""
        if self.state is not None:
            return True
        return torch.cuda.get_device_properties(0).shared_memory_per_block_optin >= 232_448

    @property
    def has_clusters_of_16(self) -> bool:
        """Whether clusters of 16 blocks are known to fit."""
        return self.state is not None or torch.cuda.get_device_capability() == (9, 0)


NAMES = ("cuda", "emulated")
WHY_NOT = {"cuda": why_not, "emulated": emulated_backend.why_not}


def on_backends(
    names: str | tuple[str, ...],
    values: Iterable[Any],
    quick: Callable[..., bool] = lambda *_: True,
) -> pytest.MarkDecorator:
    """Parametrizes ``backend`` and ``names``: all values on a GPU, under emulation those that are quick."""
    names = (names,) if isinstance(names, str) else names
    values = list(values)  # for each backend: of an iterator the second would see nothing
    cases = []
    for name in NAMES:
        for value in values:
            case = value if isinstance(value, tuple) and len(names) > 1 else (value,)
            if name == "cuda" or quick(*case):
                text = "-".join(getattr(v, "__name__", None) or str(v) for v in case)
                cases.append(pytest.param(name, *case, id=f"{name}-{text}"))
    return pytest.mark.parametrize(("backend", *names), cases, indirect=["backend"])


@cache
def _shapes() -> dict[str, torch.Size]:
    return {s.name: s.make().shape for s in samples()}


def is_quick(sample: Sample, solver: str = "eigh", *_: Any) -> bool:
    """Whether the emulation takes a second at most; "tridiag" takes a hundredth of one for each token."""
    shape = _shapes()[sample.name]
    return shape.numel() <= {"eigh": 8000, "purify": 300}.get(solver, 700)
