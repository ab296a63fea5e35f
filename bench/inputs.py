"""The features that the benchmarks run on: made from a seed, so the same everywhere."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Energy of the j-th direction falls as j ** -1.5: 90 % of it lies in some 20 directions, as in the
# features of a vision tower for a photograph.
_PHOTOGRAPH_DECAY = 1.5
_PHOTOGRAPH_DIRECTIONS = 256


@dataclass(frozen=True)
class Case:
    """One input of a benchmark: features [images, tokens, width] in float32.

    Attributes:
        images: Batch size B.
        tokens: Tokens per image N.
        width: Features per token D.
        spectrum: "photograph" (rank 15 to 30 at 90 % of the energy) or "flat" (more than 100).
    """

    images: int
    tokens: int
    width: int
    spectrum: str = "photograph"

    def __str__(self) -> str:
        return f"{self.spectrum}-{self.images}x{self.tokens}x{self.width}"

    def features(self) -> Tensor:
        """Features [B, N, D]."""
        make = {"photograph": photograph_like, "flat": flat}[self.spectrum]
        return torch.stack([make(self.tokens, self.width, seed) for seed in range(self.images)])


def photograph_like(tokens: int, width: int, seed: int = 0) -> Tensor:
    """Features [N, D] with a decaying spectrum, as a photograph's."""
    generator = torch.Generator().manual_seed(seed)
    index = torch.arange(1, _PHOTOGRAPH_DIRECTIONS + 1, dtype=torch.float32)
    left = torch.randn(tokens, _PHOTOGRAPH_DIRECTIONS, generator=generator)
    right = torch.randn(_PHOTOGRAPH_DIRECTIONS, width, generator=generator)
    return (left * index.pow(-_PHOTOGRAPH_DECAY / 2)) @ right


def flat(tokens: int, width: int, seed: int = 0) -> Tensor:
    """Features [N, D] of independent normals: the hardest spectrum, of the highest rank."""
    return torch.randn(tokens, width, generator=torch.Generator().manual_seed(seed))
