"""The kernel pivot run on the CPU: select "pivoted" of the CUDA backend, with torch's matrix products."""

from __future__ import annotations

from ctypes import Structure, byref, c_int64, c_void_p
from pathlib import Path
from typing import NamedTuple

import torch
from emulated import Emulated, _Budget, _load, _pointer, device
from torch import Tensor


class _Pivot(Structure):
    _fields_ = (
        ("gram", c_void_p),
        ("largest", c_void_p),
        ("on_chip", c_int64),
        ("left", c_void_p),
        ("rows", c_void_p),
        ("picked", c_void_p),
        ("budget", _Budget),
        ("scores", c_void_p),
        ("ranks", c_void_p),
        ("kept", c_void_p),
    )


class Found(NamedTuple):
    """What the operator returns."""

    tokens: Tensor
    indices: Tensor
    counts: Tensor
    scores: Tensor
    ranks: Tensor


def pivoted(
    library: Path,
    x: Tensor,
    keep: int | Tensor,
    *,
    coverage: float = 0.0,
    center: bool = False,
    cu_seqlens: Tensor | None = None,
    backwards: bool = False,
    on_chip: int | None = None,
) -> Found:
    """Picks of x [B, N, D] or packed [T, D].

    ``keep``: a number, or offsets [B + 1]; ``on_chip``: numbers held in shared memory, None for what suits.
    """
    cuda = Emulated(library, x, cu_seqlens)
    work = torch.float64 if x.dtype == torch.float64 else torch.float32
    with device(library, backwards=backwards):
        means = cuda.means() if center else None
        largest = cuda.largest(means)
        values = cuda.pack(work, means, largest)
        offsets = keep if isinstance(keep, Tensor) else None
        total = int(keep[-1]) if offsets is not None else 0
        places = total if offsets is not None else cuda.images * int(keep)
        gram = (values @ values.mT).contiguous()
        shape, n = x.shape[:-1], cuda.tokens
        nan = float("nan")
        emulated = _load(library)
        left = cuda._output(
            (cuda.images, emulated.emulated_pivot_numbers(c_int64(n))), nan, torch.float64
        )
        rows = cuda._output((places, n), nan, torch.float64)
        picked = cuda._output((places,), -7, torch.int32)
        scores = cuda._output(shape, -1.0, work)
        ranks = cuda._output((cuda.images,), -7, torch.int32)
        kept = cuda._output(shape, 9, torch.uint8)
        budget = _Budget(
            0 if offsets is not None else int(keep), _pointer(offsets), total, coverage
        )
        if on_chip is None:
            on_chip = emulated.emulated_pivot_on_chip(byref(cuda._args), byref(budget))
        arguments = _Pivot(
            *(_pointer(t) for t in (gram, largest)),
            on_chip,
            *(_pointer(t) for t in (left, rows, picked)),
            budget,
            *(_pointer(t) for t in (scores, ranks, kept)),
        )
        run = emulated.emulated_pivot if work == torch.float32 else emulated.emulated_pivot_float64
        run(byref(cuda._args), byref(arguments))
        cuda._checked(left)
        cuda._checked(rows)
        cuda._checked(picked)
        tokens, indices, counts = cuda.gather(
            cuda._checked(kept), budget, total, offsets is not None
        )
    return Found(tokens, indices, counts, cuda._checked(scores), cuda._checked(ranks))
