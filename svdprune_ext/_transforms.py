"""Autograd of the operators, and images side by side under ``torch.vmap``.

Autocast needs no rule: the kernels read the features without ATen, so there is nothing that
``torch.autocast`` could lower.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

_LIBRARY = torch.library.Library("svdprune", "IMPL")


def has_kernel(op: str, key: str) -> bool:
    """Whether an operator has a kernel of its own for a dispatch key."""
    return torch._C._dispatch_has_kernel_for_dispatch_key(f"svdprune::{op}", key)


def register_autograd(op: str, finish: Callable[..., Any]) -> None:
    """Registers an operator's autograd, but where the package is imported again: it is there then.

    Args:
        op: Its name, without the namespace.
        finish: From the operator's first argument and its results, which have no gradient, to what is
            returned.
    """
    if has_kernel(op, "Autograd"):
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


def _as_one_batch(
    op: str, info: Any, in_dims: tuple[int, ...], x: Tensor, *args: Any, **kwargs: Any
) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    of_all = x.movedim(in_dims[0], 0)
    torch._check_value(
        of_all.dim() in (3, 4),
        lambda: (
            f"svdprune::{op}: x must be [B, N, D] or [N, D], got shape {list(of_all.shape[1:])} under vmap"
        ),
    )
    batch = of_all.shape[:-2]
    results = getattr(torch.ops.svdprune, op)(of_all.flatten(0, -3), *args, **kwargs)
    return tuple(result.unflatten(0, batch) for result in results), (0,) * len(results)


for _name in ("leverage_scores", "diagnose"):
    register_autograd(_name, without_gradient)
for _name in ("prune", "prune_adaptive", "prune_varlen"):
    register_autograd(_name, _with_gradient_of_the_rows)
for _name in ("leverage_scores", "diagnose", "prune", "prune_adaptive"):
    if not has_kernel(_name, "FuncTorchBatched"):
        torch.library.register_vmap(f"svdprune::{_name}", partial(_as_one_batch, _name))
