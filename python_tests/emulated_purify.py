"""The kernel purify run on the CPU: solver "purify" of the CUDA backend, from a Gram matrix on."""

from __future__ import annotations

from ctypes import Structure, byref, c_double, c_int, c_int32, c_int64, c_void_p
from pathlib import Path

import torch
from emulated import Emulated, _load, _pointer, device
from emulated_tridiag import Found, Outputs, _Outputs, gram_of
from torch import Tensor

HANDED_OVER = -2
PURIFY = 3  # of svdprune::Solver
SUMS = 8


class _Purify(Structure):
    _fields_ = (
        ("partials", c_void_p),
        ("parts", c_int64),
        ("gram", c_void_p),
        ("variance", c_double),
        ("rank_asked", c_int64),
        ("x", c_void_p),
        ("sums", c_void_p),
        ("states", c_void_p),
        ("kept", c_void_p),
        ("solvers", c_void_p),
        ("solver", c_int32),
        ("out", _Outputs),
    )


def purify(
    library: Path,
    x: Tensor,
    keep: int | Tensor | None = None,
    *,
    variance: float = 0.9,
    rank: int | None = None,
    coverage: float = 0.0,
    cu_seqlens: Tensor | None = None,
    ranks: Tensor | None = None,
    blocks: int = 3,
    backwards: bool = False,
) -> Found:
    """Scores of x [B, N, D] or packed [T, D], and with a budget (a number, or offsets) its kept tokens.

    ``ranks``: what stands there before, of images that are not to be solved.
    """
    cuda = Emulated(library, x, cu_seqlens)
    loaded = _load(library)
    gram = gram_of(x, cu_seqlens)
    n = cuda.tokens
    side = (n + 63) // 64 * 64
    tiles = side // 64 * (side // 64 + 1)
    nan = float("nan")
    halves = cuda._output((2, cuda.images, 2, side, side), nan, torch.float16)
    sums = cuda._output((2, cuda.images, tiles, SUMS), nan, torch.float64)
    state_bytes = loaded.emulated_purify_state_bytes()
    states = cuda._output((2, cuda.images, state_bytes), 99, torch.uint8)
    kept = cuda._output(x.shape[:-1], 9, torch.uint8)
    solvers = cuda._output((cuda.images,), -7, torch.int32)
    outputs = Outputs(cuda, keep, coverage, torch.tensor(HANDED_OVER) if ranks is None else ranks)
    diagonal = gram.diagonal(dim1=1, dim2=2).double()
    squares = gram.double().square()
    halfway = n // 2
    partials = torch.stack(  # as if of two tiles
        [
            torch.stack([diagonal[:, :halfway].sum(1), squares[:, :halfway].sum((1, 2))], dim=1),
            torch.stack([diagonal[:, halfway:].sum(1), squares[:, halfway:].sum((1, 2))], dim=1),
        ],
        dim=1,
    ).contiguous()
    arguments = _Purify(
        _pointer(partials),
        partials.shape[1],
        _pointer(gram),
        variance,
        rank or 0,
        *(_pointer(t) for t in (halves, sums, states, kept, solvers)),
        PURIFY,
        outputs.argument(),
    )
    with device(library, backwards=backwards):
        loaded.emulated_purify(
            byref(cuda._args), byref(arguments), c_int(min(blocks, cuda.images * tiles))
        )
    for scratch in (halves, sums, states, kept):
        cuda._checked(scratch)
    found = outputs.found()
    assert (cuda._checked(solvers) == PURIFY).equal(found.steps > 0)
    return found
