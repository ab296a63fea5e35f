"""What the CUDA tests share: when they run, and every operator as one call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from samples import gaussian
from torch import Tensor

import svdprune_ext as svdprune

OPS = ["leverage_scores", "prune", "prune_adaptive", "prune_varlen"]  # solver "eigh"
OPS += [f"{name} {solver}" for solver in ("tridiag", "purify") for name in OPS]
FEW = {
    "gaussian",
    "batch",
    "more_tokens",
    "zeros",
    "explicit_rank",
    "float64",
    "bfloat16",
}  # samples
every_op = pytest.mark.parametrize("name", OPS)


def why_not() -> str:
    """Why there is nothing to test on this machine; empty where there is."""
    if not torch.cuda.is_available():
        return "no GPU: torch.cuda.is_available() is False"
    if not svdprune.has_cuda:
        return "svdprune_ext was built without the CUDA backend (SVDPRUNE_CUDA=ON builds it)"
    return ""


needs_cuda = pytest.mark.skipif(bool(why_not()), reason=why_not() or "there is a GPU")


def operator_calls(device: str | torch.device = "cuda") -> dict[str, Callable[[Tensor], Any]]:
    """Every operator as a function of x [2, 40, 56] alone, by solver; nothing else is moved later."""
    lengths = torch.tensor([0, 25, 25, 80], dtype=torch.int32, device=device)
    keeps = torch.tensor([0, 7, 7, 12], device=device)

    def calls(solver: str) -> list[Callable[[Tensor], Any]]:
        return [
            lambda x: svdprune.leverage_scores(x, solver=solver),
            lambda x: svdprune.prune(x, 9, solver=solver),
            lambda x: svdprune.prune_adaptive(x, 9, coverage=0.4, solver=solver),
            lambda x: svdprune.prune_varlen(
                x.reshape(-1, x.shape[-1]),
                lengths,
                keeps,
                total_keep=12,
                max_seqlen=55,
                solver=solver,
            ),
        ]

    return dict(zip(OPS, calls("eigh") + calls("tridiag") + calls("purify"), strict=True))


def features(seed: int = 0, device: str | torch.device = "cuda") -> Tensor:
    """An input [2, 40, 56] of ``operator_calls``."""
    return gaussian(2, 40, 56, seed=seed).to(device)


def assert_same_bits(got: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)
