"""``rater_scores`` and ``rater_scores_by_head`` with their CUDA kernels run on the CPU."""

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
        *((name, c_void_p) for name in ("raters", "visual", "head_weights", "divisor")),
        ("divisor_stride", c_int64),
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


def _call(
    q: Tensor,
    k: Tensor,
    raters: Tensor,
    visual: Tensor,
    mask: Tensor | None,
    causal: bool,
    scale: float | None,
) -> _Call:
    b, h, queries, d = q.shape
    args = _Args(
        *(b, h, k.shape[1], queries, k.shape[2], d, raters.shape[1], visual.shape[1]),
        _Heads(q.data_ptr(), *q.stride()),
        _Heads(k.data_ptr(), *k.stride()),
        _mask(mask),
        causal,
        d**-0.5 if scale is None else scale,
    )
    return _Call(args, DTYPES.index(q.dtype), _pointer(raters), _pointer(visual))


def _launched(
    library: Path, name: str, call: _Call, shapes: dict[str, tuple[int, ...]], backwards: bool
) -> dict[str, Tensor]:
    """Scratch and results of a launch, by name."""
    outputs = _Outputs()
    dtype = torch.float64 if DTYPES[call.dtype] == torch.float64 else torch.float32
    made = {key: outputs.make(*shape, dtype=dtype) for key, shape in shapes.items()}
    for key, tensor in made.items():
        setattr(call, key, tensor.data_ptr())
    with device(library, backwards=backwards):
        getattr(_load(library), f"emulated_{name}")(byref(call))
    outputs.check()
    return made


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
    call = _call(q, k, raters, visual, mask, causal, scale)
    call.head_weights = _pointer(head_weights)
    (b, h), r, n = q.shape[:2], raters.shape[1], visual.shape[1]
    shapes = {
        "rows": (b, h, r, 2),
        "masses": (b, h, _load(library).emulated_rater_tiles(byref(call))),
        "scores": (b, n),
        "attention": (b, r, n),
        "head_mass": (b, h),
    }
    made = _launched(library, "rater_scores", call, shapes, backwards)
    return made["scores"], made["attention"], made["head_mass"]


def rater_scores_by_head(
    library: Path,
    q: Tensor,
    k: Tensor,
    raters: Tensor,
    visual: Tensor,
    *,
    mask: Tensor | None = None,
    causal: bool = True,
    scale: float | None = None,
    divisor: Tensor | None = None,
    backwards: bool = False,
) -> Tensor:
    """The other launch: scores [B, H, N]."""
    call = _call(q, k, raters, visual, mask, causal, scale)
    (b, h), r, n = q.shape[:2], raters.shape[1], visual.shape[1]
    call.divisor = _pointer(divisor)
    call.divisor_stride = r if divisor is not None and len(divisor) > 1 else 0
    shapes = {"rows": (b, h, r, 2), "scores": (b, h, n)}
    return _launched(library, "rater_scores_by_head", call, shapes, backwards)["scores"]
