"""Random images whose spectra hurt: one for every seed of a kind."""

from __future__ import annotations

from typing import Any

import torch
from samples import gaussian, power_law, with_spectrum
from torch import Tensor


def hard_case(seed: int, largest: int = 220) -> tuple[Tensor, dict[str, Any]]:
    """Features [N, D], and options: power laws, plateaus, geometric decay, clusters within 1e-5, a mean,
    outliers with duplicates."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low: float, high: float) -> float:
        return low + (high - low) * torch.rand((), generator=generator).item()

    n, d = int(draw(2, largest)), int(draw(2, largest))
    k = min(n, d)
    kind = seed % 6
    energy = power_law(k, draw(0.05, 4))
    half = k // 2
    if kind == 1:
        plateau = torch.full((half + 1,), draw(1, 50))
        energy = torch.cat([plateau, torch.rand(k, generator=generator) + 1e-3])[:k]
    elif kind == 2:
        energy = torch.logspace(0, -draw(1, 7), k)
    elif kind == 3 and k > 3:
        cluster = 1 + 1e-5 * torch.rand(half - 1, generator=generator)
        energy[1:half] = energy[1:half].mean() * cluster
    x = with_spectrum(n, d, energy, seed=seed)
    if kind == 4:
        x = x + draw(0, 5) * gaussian(d, seed=seed) / d**0.5
    elif kind == 5:
        x[::7] *= draw(1, 100)
        x = torch.cat([x, x[: n // 3]])
    return x, {"variance": draw(0.3, 0.9999), "center": seed % 7 == 0}


def plateaus(seed: int, largest: int = 220) -> tuple[Tensor, dict[str, Any]]:
    """Features [N, D] with two or three plateaus in their spectrum, and the rank at the last step down.

    It is 1e-5 to 3e-2 of the largest energy, and many eigenvectors above the cut mix with many below it.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(low: float, high: float) -> float:
        return low + (high - low) * torch.rand((), generator=generator).item()

    n, d = int(draw(20, largest)), int(draw(20, largest))
    k = min(n, d)
    first = int(draw(1, k / 2))
    rank = first + int(draw(1, k - first))
    step = 10 ** draw(-5, -1.5)
    low = 1 - step if seed % 2 else step * draw(0, 1)
    energy = torch.full((k,), low)
    energy[:rank] = low + step
    energy[:first] = 1
    x = with_spectrum(n, d, energy, seed=seed)
    if seed % 3 == 1:  # a few tokens that weigh much
        x = x * (torch.rand(n, 1, generator=generator) ** 6 + 1e-2)
    return x, {"rank": rank}
