"""SVD-Prune as an ``nn.Module`` without parameters."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn

from svdprune_ext.methods.options import SELECTS, SOLVERS, is_share
from svdprune_ext.ops import prune


class SVDPrune(nn.Module):
    """Keeps the vision tokens of an image that matter: drops into any ``encode_images``.

    Args:
        keep: Number of tokens to keep, at most N.
        variance: Share of the energy that the leading directions hold, in (0, 1].
        rank: Number of leading directions, in [1, min(N, D)]; overrides ``variance``.
        center: Subtract the mean token before scoring.
        solver: "auto", "tridiag", "eigh" or "purify".
        select: "topk", the tokens of highest leverage, or "pivoted", as in ``svdprune_ext.prune``.

    Raises:
        ValueError: An argument is out of its range, as far as it does not depend on the features.

    Example:
        >>> pruned = SVDPrune(keep=32)(features)  # [B, 576, 1024] -> [B, 32, 1024]
    """

    def __init__(
        self,
        keep: int,
        variance: float = 0.9,
        rank: int | None = None,
        center: bool = False,
        solver: str = "auto",
        select: str = "topk",
    ) -> None:
        super().__init__()
        _check("keep", _is_whole(keep, least=0), "an int >= 0", keep)
        _check("variance", is_share(variance), "in (0, 1]", variance)
        _check("rank", rank is None or _is_whole(rank, least=1), "None or an int >= 1", rank)
        _check("center", isinstance(center, bool), "a bool", center)
        _check("solver", solver in SOLVERS, f"one of {', '.join(SOLVERS)}", solver)
        _check("select", select in SELECTS, f"one of {', '.join(SELECTS)}", select)
        if select == "pivoted":
            only = "for select pivoted, which needs no leading directions"
            _check("variance", variance == 0.9, f"left out {only}", variance)
            _check("rank", rank is None, f"left out {only}", rank)
            _check("solver", solver == "auto", f"left out {only}", solver)
        self.keep = keep
        self.variance = variance
        self.rank = rank
        self.center = center
        self.solver = solver
        self.select = select

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, D] or [N, D] -> [B, keep, D] or [keep, D], in the original order."""
        return prune(
            x,
            self.keep,
            variance=self.variance,
            rank=self.rank,
            center=self.center,
            solver=self.solver,
            select=self.select,
        ).tokens

    def extra_repr(self) -> str:
        """The options, for ``print(module)``."""
        return (
            f"keep={self.keep}, variance={self.variance}, rank={self.rank}, center={self.center}, "
            f"solver={self.solver!r}, select={self.select!r}"
        )


def _is_whole(value: Any, least: int) -> bool:
    if isinstance(value, torch.SymInt):  # a size of a traced shape
        return True
    right = isinstance(value, Integral) and not isinstance(value, bool)
    return right and int(value) >= least


def _check(name: str, right: bool, expected: str, got: object) -> None:
    if not right:
        raise ValueError(f"SVDPrune: {name} must be {expected}, got {got!r}")
