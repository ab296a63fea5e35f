"""The kernel purify run on the CPU: solver "purify" of the CUDA backend, from a Gram matrix on."""

from __future__ import annotations

from ctypes import Structure, byref, c_bool, c_double, c_int, c_int32, c_int64, c_void_p
from pathlib import Path

import torch
from emulated import Emulated, _Budget, _load, _pointer, device
from emulated_tridiag import Found, gram_of
from torch import Tensor

HANDED_OVER = -2
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
        ("scores", c_void_p),
        ("rank", c_void_p),
        ("steps", c_void_p),
        ("solvers", c_void_p),
        ("solver", c_int32),
        ("selects", c_bool),
        ("budget", _Budget),
        ("tokens", c_void_p),
        ("indices", c_void_p),
        ("count", c_void_p),
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
    packed = isinstance(keep, Tensor)
    total = int(keep[-1]) if packed else 0
    places = (total,) if packed else (cuda.images, keep or 0)
    nan = float("nan")
    halves = cuda._output((2, cuda.images, 2, side, side), nan, torch.float16)
    sums = cuda._output((2, cuda.images, tiles, SUMS), nan, torch.float64)
    state_bytes = loaded.emulated_purify_state_bytes()
    states = cuda._output((2, cuda.images, state_bytes), 99, torch.uint8)
    kept = cuda._output(x.shape[:-1], 9, torch.uint8)
    scores = cuda._output(x.shape[:-1], -1.0, torch.float32)
    if ranks is None:
        ranks = torch.full((cuda.images,), HANDED_OVER, dtype=torch.int32)
    ranks = ranks.clone()
    steps, solvers = torch.full((2, cuda.images), -7, dtype=torch.int32)
    tokens = cuda._output((*places, cuda.features), -3.0, x.dtype)
    indices = cuda._output(places, -9, torch.int64)
    counts = cuda._output((cuda.images,), -9, torch.int32)
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
        *(_pointer(t) for t in (halves, sums, states, kept, scores, ranks, steps, solvers)),
        3,
        keep is not None,
        _Budget(0 if packed else keep or 0, _pointer(keep) if packed else None, total, coverage),
        *(_pointer(t) for t in (tokens, indices, counts)),
    )
    with device(library, backwards=backwards):
        loaded.emulated_purify(
            byref(cuda._args), byref(arguments), c_int(min(blocks, cuda.images * tiles))
        )
    for scratch in (halves, sums, states, kept):
        cuda._checked(scratch)
    assert (solvers == 3).equal(steps > 0)
    found = [cuda._checked(scores), ranks, steps]
    if keep is None:
        return Found(*found)
    return Found(*found, *(cuda._checked(t) for t in (tokens, indices, counts)))
