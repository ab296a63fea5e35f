"""The kernel eig_select run on the CPU: solver "tridiag" of the CUDA backend, from a Gram matrix on."""

from __future__ import annotations

from ctypes import Structure, byref, c_bool, c_double, c_int, c_int64, c_size_t, c_void_p
from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from emulated import Emulated, _Budget, _load, _pointer, device
from torch import Tensor


@dataclass(frozen=True)
class Shape:
    """Blocks of a cluster, and threads of a block."""

    blocks: int = 4
    threads: int = 64


class HandOver(IntEnum):
    """Which images are left to the kernel purify."""

    NEVER, FLAT, ALWAYS = range(3)


class _Outputs(Structure):
    _fields_ = (
        ("scores", c_void_p),
        ("rank", c_void_p),
        ("steps", c_void_p),
        ("selects", c_bool),
        ("budget", _Budget),
        ("tokens", c_void_p),
        ("indices", c_void_p),
        ("count", c_void_p),
    )


class Outputs:
    """What a kernel that does stages 2 to 5 writes, filled with what it would not write."""

    def __init__(
        self, cuda: Emulated, keep: int | Tensor | None, coverage: float, ranks: Tensor
    ) -> None:
        packed = isinstance(keep, Tensor)
        total = int(keep[-1]) if packed else 0
        places = (total,) if packed else (cuda.images, keep or 0)
        self._cuda, self._selects = cuda, keep is not None
        self._budget = _Budget(
            0 if packed else keep or 0, _pointer(keep) if packed else None, total, coverage
        )
        self._solved = (
            cuda._output(cuda.x.shape[:-1], -1.0, torch.float32),
            cuda._output((cuda.images,), -7, torch.int32),
            cuda._output((cuda.images,), -7, torch.int32),
        )
        self._solved[1].copy_(ranks)
        self._kept = (
            cuda._output((*places, cuda.features), -3.0, cuda.x.dtype),
            cuda._output(places, -9, torch.int64),
            cuda._output((cuda.images,), -9, torch.int32),
        )

    def argument(self) -> _Outputs:
        """As the kernel takes it."""
        return _Outputs(
            *(_pointer(t) for t in self._solved),
            self._selects,
            self._budget,
            *(_pointer(t) for t in self._kept),
        )

    def found(self) -> Found:
        """After the launch, once nothing turns out to be written outside."""
        solved, kept = ([self._cuda._checked(t) for t in ts] for ts in (self._solved, self._kept))
        return Found(*solved, *kept) if self._selects else Found(*solved)


class _EigSelect(Structure):
    _fields_ = (
        ("partials", c_void_p),
        ("parts", c_int64),
        ("gram", c_void_p),
        ("reflectors", c_void_p),
        ("largest", c_void_p),
        ("vectors", c_void_p),
        ("eigenvalues", c_void_p),
        ("variance", c_double),
        ("rank_asked", c_int64),
        ("hand_over", c_int),
        ("out", _Outputs),
    )


@dataclass(frozen=True)
class Found:
    """What the kernel writes; tokens, indices and count where a budget was given."""

    scores: Tensor
    rank: Tensor
    steps: Tensor
    tokens: Tensor | None = None
    indices: Tensor | None = None
    count: Tensor | None = None

    @property
    def all(self) -> tuple[Tensor, ...]:
        """Every tensor there is."""
        return tuple(t for t in vars(self).values() if t is not None)


def gram_of(x: Tensor, cu_seqlens: Tensor | None = None) -> Tensor:
    """[B, N, N] in float32, as kernel K1 leaves it: zeros behind a packed image's end."""
    if cu_seqlens is None:
        work = x.float()
        return work @ work.mT
    longest = int(cu_seqlens.diff().max())
    gram = torch.zeros(len(cu_seqlens) - 1, longest, longest)
    for b, (first, end) in enumerate(pairwise(cu_seqlens.tolist())):
        rows = x[first:end].float()
        gram[b, : len(rows), : len(rows)] = rows @ rows.T
    return gram


def eig_select(
    library: Path,
    x: Tensor,
    keep: int | Tensor | None = None,
    *,
    variance: float = 0.9,
    rank: int | None = None,
    coverage: float = 0.0,
    cu_seqlens: Tensor | None = None,
    largest: Tensor | None = None,
    gram: Tensor | None = None,
    partials: Tensor | None = None,
    hand_over: HandOver = HandOver.NEVER,
    shape: Shape = Shape(),
    backwards: bool = False,
) -> Found:
    """Scores of x [B, N, D] or packed [T, D], and with a budget (a number, or offsets) its kept tokens."""
    cuda = Emulated(library, x, cu_seqlens)
    gram = (gram_of(x, cu_seqlens) if gram is None else gram).clone()
    n = cuda.tokens
    outputs = Outputs(cuda, keep, coverage, torch.tensor(-7))
    reflectors = gram if hand_over == HandOver.NEVER else torch.full_like(gram, float("nan"))
    vectors = cuda._output((cuda.images, n // 2 + 1, n), float("nan"), torch.float32)
    if partials is None:  # two shares of the trace, as if of two tiles
        diagonal = gram.diagonal(dim1=1, dim2=2).double()
        halves = torch.stack([diagonal[:, ::2].sum(1), diagonal[:, 1::2].sum(1)], dim=1)
        partials = torch.stack([halves, halves], dim=2)
    partials = partials.contiguous()
    arguments = _EigSelect(
        _pointer(partials),
        partials.shape[1],
        _pointer(gram),
        _pointer(reflectors),
        _pointer(largest),
        _pointer(vectors),
        None,
        variance,
        rank or 0,
        hand_over,
        outputs.argument(),
    )
    with device(library, backwards=backwards):
        _load(library).emulated_eig_select(
            byref(cuda._args), byref(arguments), c_int(shape.blocks), c_int(shape.threads)
        )
    cuda._checked(vectors)
    return outputs.found()


def two_launches(
    library: Path, x: Tensor, keep: int | Tensor, cu_seqlens: Tensor | None = None, **options: Any
) -> Found:
    """Kernel gram_fused, then eig_select on what it leaves: the whole of solver "tridiag"."""
    gram, totals, _ = Emulated(library, x, cu_seqlens).gram_fused()
    return eig_select(
        library,
        x,
        keep,
        cu_seqlens=cu_seqlens,
        gram=gram,
        partials=totals[:, None],
        **options,
    )


def shared_bytes(library: Path, tokens: int, shape: Shape) -> int:
    """Dynamic shared memory of a block; 0 where N is too large for the kernel."""
    function = _load(library).emulated_eig_select_bytes
    function.restype, function.argtypes = c_size_t, (c_int64, c_int, c_int)
    return function(tokens, shape.blocks, shape.threads)
