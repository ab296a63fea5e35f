"""Fake kernels and autograd of the operators, and the names of their results in saved programs.

Autocast needs no rule: the kernels read the features without ATen, so there is nothing that
``torch.autocast`` could lower.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils import _pytree

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


def register_autograd(op: str, finish: Callable[..., Any]) -> None:
    """Registers an operator's autograd, but where the package is imported again: it is there then.

    Args:
        op: Its name, without the namespace.
        finish: From the operator's first argument and its results, which have no gradient, to what is
            returned.
    """
    if _has_kernel(op, "Autograd"):
        return
    overload = getattr(torch.ops.svdprune, op).default

    def kernel(keyset: Any, first: Tensor, *args: Any, **kwargs: Any) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            results = overload.redispatch(
                keyset & torch._C._after_autograd_keyset, first, *args, **kwargs
            )
        return finish(first, results)

    _LIBRARY.impl(op, kernel, "Autograd", with_keyset=True)


def without_gradient(_: Tensor, results: Any) -> Any:
    """For an operator whose results choose tokens."""
    return results


def _with_gradient_of_the_rows(x: Tensor, results: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    # The selection is piecewise constant, so only the gather has a derivative. It is done again by torch,
    # whose derivatives are of any order, forward and reverse, and work under torch.func.
    if not ((x.requires_grad and torch.is_grad_enabled()) or forward_ad._current_level >= 0):
        return results
    _, indices, *others = results
    # A padded place (index -1) is a constant zero row: its gradient, be it NaN, goes nowhere.
    tokens = torch.take_along_dim(x, indices.clamp_min(0).unsqueeze(-1), dim=-2)
    return (tokens.masked_fill((indices < 0).unsqueeze(-1), 0), indices, *others)


def _has_kernel(op: str, key: str) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(f"svdprune::{op}", key)


_LIBRARY = torch.library.Library("svdprune", "IMPL")
for _name in ("leverage_scores", "diagnose"):
    register_autograd(_name, without_gradient)
for _name in ("prune", "prune_adaptive", "prune_varlen"):
    register_autograd(_name, _with_gradient_of_the_rows)


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
        if not _has_kernel(op, "CUDA"):
            torch.library.impl(f"svdprune::{op}", "CUDA", _refuse_cuda(op, argument))
