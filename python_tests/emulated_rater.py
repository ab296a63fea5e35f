"""``rater_scores`` with its CUDA kernels run on the CPU."""

from __future__ import annotations

from ctypes import Structure, byref, c_bool, c_double, c_int, c_int64, c_void_p
from pathlib import Path

import torch
from emulated import DTYPES, MARGIN, _load, _pointer, device
from torch import Tensor


class _Heads(Structure):
    _fields_ = (("data", c_void_p), *((f"{name}_stride", c_int64) for name in ("b", "h", "t", "d")))


class _Mask(Structure):
    _fields_ = (("data", c_void_p), *((f"{name}_stride", c_int64) for name in ("b", "h", "q", "k")))


class _Args(Structure):
    _fields_ = (
        *((name, c_int64) for name in ("prompts", "heads", "key_heads", "queries", "keys")),
        *((name, c_int64) for name in ("features", "raters", "columns")),
        ("q", _Heads),
        ("k", _Heads),
        ("mask", _Mask),
        ("causal", c_bool),
        ("scale", c_double),
    )


class _Call(Structure):
    _fields_ = (
        ("args", _Args),
        ("dtype", c_int),
        *((name, c_void_p) for name in ("raters", "visual", "head_weights")),
        *((name, c_void_p) for name in ("rows", "masses", "scores", "attention", "head_mass")),
    )


def _mask(mask: Tensor | None) -> _Mask:
    if mask is None:
        return _Mask()
    if mask.dim() == 2:
        return _Mask(mask.data_ptr(), mask.stride(0), 0, 0, mask.stride(1))
    strides = [s if n > 1 else 0 for s, n in zip(mask.stride()[:2], mask.shape[:2], strict=True)]
    return _Mask(mask.data_ptr(), *strides, *mask.stride()[2:])


class _Outputs:
    """Uninitialised outputs, between margins that a kernel which writes outside would change."""

    def __init__(self) -> None:
        self._wholes: list[Tensor] = []

    def make(self, *shape: int, dtype: torch.dtype) -> Tensor:
        count = torch.Size(shape).numel()
        self._wholes.append(torch.full((count + 2 * MARGIN,), float("nan"), dtype=dtype))
        return self._wholes[-1][MARGIN : MARGIN + count].view(shape)

    def check(self) -> None:
        for whole in self._wholes:
            assert whole[:MARGIN].isnan().all(), "written outside"
            assert whole[-MARGIN:].isnan().all(), "written outside"


def rater_scores(
    library: Path,
    q: Tensor,
    k: Tensor,
    raters: Tensor,
    visual: Tensor,
    *,
    mask: Tensor | None = None,
    causal: bool = True,
    scale: float | None = None,
    head_weights: Tensor | None = None,
    backwards: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """The launch of csrc/cuda/launch.h on CPU tensors: scores, attention, head_mass."""
    dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    b, h, queries, d = q.shape
    r, n = raters.shape[1], visual.shape[1]
    args = _Args(
        *(b, h, k.shape[1], queries, k.shape[2], d, r, n),
        _Heads(q.data_ptr(), *q.stride()),
        _Heads(k.data_ptr(), *k.stride()),
        _mask(mask),
        causal,
        d**-0.5 if scale is None else scale,
    )
    call = _Call(
        args, DTYPES.index(q.dtype), _pointer(raters), _pointer(visual), _pointer(head_weights)
    )
    emulated, outputs = _load(library), _Outputs()
    tiles = emulated.emulated_rater_tiles(byref(call))
    shapes = {
        "rows": (b, h, r, 2),
        "masses": (b, h, tiles),
        "scores": (b, n),
        "attention": (b, r, n),
        "head_mass": (b, h),
    }
    made = {name: outputs.make(*shape, dtype=dtype) for name, shape in shapes.items()}
    for name, tensor in made.items():
        setattr(call, name, tensor.data_ptr())
    with device(library, backwards=backwards):
        emulated.emulated_rater_scores(byref(call))
    outputs.check()
    return made["scores"], made["attention"], made["head_mass"]
