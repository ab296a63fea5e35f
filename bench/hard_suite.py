"""Features whose spectra hurt a solver, and the float64 oracle for all their ranks at once."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from bench.inputs import flat, photograph_like

# The accuracy that svdprune_ext.ops promises for scores: max(_FLOOR, _NOISE / gap).
_FLOOR = 2e-4
_NOISE = 3e-9


@dataclass(frozen=True)
class Input:
    """One input of the suite.

    Attributes:
        name: What the tables call it.
        tokens: N.
        width: D.
        make: Makes the features [N, D], float32, of the two sizes.
    """

    name: str
    tokens: int
    width: int
    make: Callable[[int, int], Tensor]

    def features(self) -> Tensor:
        """Features [N, D]: the same at every call."""
        return self.make(self.tokens, self.width)


class Oracle:
    """Rank, gap and scores of one image at any variance, from one float64 SVD.

    ``svdprune_ext.reference.oracle_leverage`` is the specification, at an SVD a call.
    """

    def __init__(self, x: Tensor) -> None:
        u, s, _ = torch.linalg.svd(x.double(), full_matrices=False)
        self._leverage = u.square()  # [N, min(N, D)]
        self._energy = (s / s[0]).square()

    def rank(self, variance: float) -> int:
        """Smallest number of directions that hold ``variance`` of the energy."""
        share = self._energy.cumsum(0) / self._energy.sum()
        return min(int((share < variance).sum()) + 1, len(share))

    def scores(self, rank: int) -> Tensor:
        """Leverage of each token on the ``rank`` leading directions, float64 [N]."""
        return self._leverage[:, :rank].sum(dim=1)

    def gap(self, rank: int) -> float | None:
        """``(lambda_r - lambda_r+1) / lambda_1`` of the Gram matrix [N, N]; None where r is N."""
        if rank == len(self._leverage):
            return None
        after = self._energy[rank].item() if rank < len(self._energy) else 0.0
        return self._energy[rank - 1].item() - after

    def allowed(self, rank: int) -> float:
        """How far a score may be off."""
        gap = self.gap(rank)
        if gap is None:
            return _FLOOR
        return max(_FLOOR, _NOISE / gap) if gap > 0 else float("inf")


def suite(tokens: int = 576, width: int = 1024, tall: int = 2880) -> list[Input]:
    """The hard suite.

    Args:
        tokens: N of all inputs but the last.
        width: D.
        tall: N of the last.

    Returns:
        Inputs, from benign spectra to flat ones.
    """
    laws = [
        Input(f"power law {exponent:g}", tokens, width, partial(_power_law, exponent=exponent))
        for exponent in (3.0, 2.0, 1.5, 1.0, 0.5)
    ]
    return [
        *laws,
        Input("photograph", tokens, width, photograph_like),
        Input("photograph, noisy", tokens, width, _noisy),
        Input("dominant mean", tokens, width, _dominant_mean),
        Input("massive outliers", tokens, width, _outliers),
        Input("duplicates", tokens, width, _duplicates),
        Input("clusters 1e-4", tokens, width, partial(_clusters, spacing=1e-4)),
        Input("clusters 1e-6", tokens, width, partial(_clusters, spacing=1e-6)),
        Input("plateaus 2e-5", tokens, width, partial(_plateaus, step=2e-5)),
        Input("flat", tokens, width, flat),
        Input("photograph", tall, width, photograph_like),
    ]


def with_energy(tokens: int, width: int, energy: Tensor) -> Tensor:
    """Features [N, D] with random singular vectors and the squared singular values energy [k]."""
    generator = torch.Generator().manual_seed(0)

    def orthonormal(rows: int) -> Tensor:
        normal = torch.randn(rows, len(energy), generator=generator, dtype=torch.float64)
        return torch.linalg.qr(normal).Q

    return (orthonormal(tokens) * energy.double().sqrt() @ orthonormal(width).mT).float()


def _power_law(tokens: int, width: int, exponent: float) -> Tensor:
    index = torch.arange(1, min(tokens, width) + 1, dtype=torch.float64)
    return with_energy(tokens, width, index**-exponent)


def _noisy(tokens: int, width: int) -> Tensor:
    # As much energy in the noise as in the photograph: the rank is in the noise.
    x = photograph_like(tokens, width)
    return x + x.square().mean().sqrt() * flat(tokens, width, seed=1)


def _dominant_mean(tokens: int, width: int) -> Tensor:
    # The mean token holds 6/7 of the energy.
    x = photograph_like(tokens, width)
    mean = flat(1, width, seed=1)
    return x + 6**0.5 * x.square().mean().sqrt() * mean


def _outliers(tokens: int, width: int) -> Tensor:
    x = photograph_like(tokens, width).clone()
    x[:: max(tokens // 6, 1)] *= 30
    return x


def _duplicates(tokens: int, width: int) -> Tensor:
    return flat(-(-tokens // 4), width).repeat(4, 1)[:tokens]


def _clusters(tokens: int, width: int, spacing: float) -> Tensor:
    # Sixteen equal directions, but for `spacing` of the largest, again and again: most cuts fall inside such
    # a cluster, where neighbours hardly differ.
    size = 16
    index = torch.arange(min(tokens, width), dtype=torch.float64)
    energy = (1 + index // size) ** -1.5 - spacing * (index % size)
    return with_energy(tokens, width, energy.clamp_min(0))


def _plateaus(tokens: int, width: int, step: float) -> Tensor:
    # Nine tenths of the directions are equal, and so are the others, less by `step`: with 0.9 of the energy
    # the cut falls between the two.
    energy = torch.ones(min(tokens, width), dtype=torch.float64)
    energy[math.ceil(0.9 * len(energy)) :] -= step
    return with_energy(tokens, width, energy)
