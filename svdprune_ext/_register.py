"""Fake kernels of the operators, and the names of their results in saved programs."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils import _pytree

from svdprune_ext._transforms import has_kernel

Result = TypeVar("Result", bound=tuple[Any, ...])


def saved_as(name: str) -> Any:
    """Lets ``torch.export.save`` write, and AOTInductor package, programs that return this NamedTuple.

    Args:
        name: What stands for the class in their files, which any later version must know.
    """

    def register(result: type[Result]) -> type[Result]:
        if hasattr(_pytree, "_register_namedtuple"):  # private; there is no public one (torch 2.13)
            _pytree._register_namedtuple(result, serialized_type_name=name)
        return result

    return register


def _score_dtype(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _check_features(op: str, x: Tensor, dims: tuple[int, ...]) -> None:
    # The checks whose failure would break the shape arithmetic below; the kernels make all of them.
    torch._check_value(
        x.dim() in dims,
        lambda: f"svdprune::{op}: x must be [B, N, D] or [N, D], got shape {list(x.shape)}",
    )


def _device_name(tensor: Tensor) -> str:
    return "the CPU" if tensor.device.type == "cpu" else str(tensor.device)


def check_devices(op: str, of: str, like: Tensor, **others: Tensor | None) -> None:
    """Refuses tensors that are not where ``like`` is, the argument named ``of``.

    A meta tensor among others brings a call to the fake kernel, which would return memory as it is.
    """
    for name, tensor in others.items():
        torch._check_value(
            tensor is None or tensor.device == like.device,
            lambda name=name, tensor=tensor: (
                f"svdprune::{op}: {name} must be on the device of {of}, {_device_name(like)}, "
                f"got {_device_name(tensor)}"
            ),
        )


@torch.library.register_fake("svdprune::leverage_scores")
def _(
    x: Tensor,
    *,
    variance: float = 0.9,
    rank: int | None = None,
    center: bool = False,
    solver: str = "auto",
) -> tuple[Tensor, Tensor]:
    _check_features("leverage_scores", x, (2, 3))
    return (
        x.new_empty(x.shape[:-1], dtype=_score_dtype(x)),
        x.new_empty(x.shape[:-2], dtype=torch.int32),
    )


@torch.library.register_fake("svdprune::diagnose")
def _(
    x: Tensor,
    *,
    variance: float = 0.9,
    rank: int | None = None,
    center: bool = False,
    solver: str = "auto",
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    _check_features("diagnose", x, (2, 3))
    rank_, steps, size, ran, refined = (
        x.new_empty(x.shape[:-2], dtype=torch.int32) for _ in range(5)
    )
    return rank_, steps, size, ran, refined


@torch.library.register_fake("svdprune::prune")
def _(
    x: Tensor,
    keep: int,
    *,
    variance: float = 0.9,
    rank: int | None = None,
    center: bool = False,
    solver: str = "auto",
    select: str = "topk",
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    _check_features("prune", x, (2, 3))
    batch = x.shape[:-2]
    return (
        x.new_empty((*batch, keep, x.shape[-1])),
        x.new_empty((*batch, keep), dtype=torch.int64),
        x.new_empty(x.shape[:-1], dtype=_score_dtype(x)),
        x.new_empty(batch, dtype=torch.int32),
    )


@torch.library.register_fake("svdprune::prune_adaptive")
def _(
    x: Tensor,
    max_keep: int,
    *,
    coverage: float,
    variance: float = 0.9,
    rank: int | None = None,
    center: bool = False,
    solver: str = "auto",
    select: str = "topk",
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    _check_features("prune_adaptive", x, (2, 3))
    batch = x.shape[:-2]
    return (
        x.new_empty((*batch, max_keep, x.shape[-1])),
        x.new_empty((*batch, max_keep), dtype=torch.int64),
        x.new_empty(batch, dtype=torch.int32),
        x.new_empty(x.shape[:-1], dtype=_score_dtype(x)),
        x.new_empty(batch, dtype=torch.int32),
    )


@torch.library.register_fake("svdprune::prune_varlen")
def _(
    x: Tensor,
    cu_seqlens: Tensor,
    cu_keep: Tensor,
    *,
    total_keep: int,
    max_seqlen: int,
    variance: float = 0.9,
    rank: int | None = None,
    center: bool = False,
    solver: str = "auto",
    select: str = "topk",
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    _check_features("prune_varlen", x, (2,))
    check_devices("prune_varlen", "x", x, cu_seqlens=cu_seqlens, cu_keep=cu_keep)
    return (
        x.new_empty((total_keep, x.shape[1])),
        x.new_empty((total_keep,), dtype=torch.int64),
        x.new_empty(x.shape[:1], dtype=_score_dtype(x)),
        x.new_empty((cu_seqlens.shape[0] - 1,), dtype=torch.int32),
    )


def _refuse_cuda(op: str, argument: str = "x") -> Any:
    def kernel(*_: Any, **__: Any) -> Any:
        raise RuntimeError(
            f"svdprune::{op}: {argument} must be on the CPU, got a CUDA tensor: this build of svdprune_ext "
            "has no CUDA backend (`svdprune info` says how to get it)"
        )

    return kernel


def refuse_cuda() -> None:
    """Gives CUDA tensors a clear error, where no CUDA backend was loaded."""
    of_features = ("leverage_scores", "diagnose", "prune", "prune_adaptive", "prune_varlen")
    of_queries = ("rater_scores", "rater_scores_by_head")
    for op in (*of_features, *of_queries):
        argument = "x" if op in of_features else "q"
        if not has_kernel(op, "CUDA"):
            torch.library.impl(f"svdprune::{op}", "CUDA", _refuse_cuda(op, argument))
