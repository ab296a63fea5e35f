"""The one list of named inputs that the tests of the operators share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sample:
    """Features [B, N, D] or [N, D], and the arguments they are pruned with."""

    name: str
    make: Callable[[], Tensor]
    keep: int
    variance: float = 0.9
    rank: int | None = None
    center: bool = False

    @property
    def options(self) -> dict[str, Any]:
        return {"variance": self.variance, "rank": self.rank, "center": self.center}

    def __str__(self) -> str:
        return self.name


def gaussian(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


VIEWS = ("contiguous", "transposed", "strided", "expanded")


def view(name: str, dtype: torch.dtype) -> Tensor:
    """Features [2, 12, 24] with the strides of one of ``VIEWS``."""
    base = gaussian(2, 12, 24, dtype=dtype)
    return {
        "contiguous": base,
        "transposed": base.mT.contiguous().mT,
        "strided": gaussian(2, 24, 72, dtype=dtype)[:, ::2, 1::3],
        "expanded": base[:1].expand(2, -1, -1),
    }[name]


def orthonormal(n: int, d: int, seed: int = 0) -> Tensor:
    """[n, d], float64: orthonormal columns."""
    return torch.linalg.qr(gaussian(n, d, seed=seed, dtype=torch.float64)).Q


def with_spectrum(
    n: int, d: int, energy: Tensor, seed: int = 0, dtype: torch.dtype = torch.float32
) -> Tensor:
    """[n, d] with random singular vectors and the squared singular values energy [k]."""
    k = len(energy)
    left, right = orthonormal(n, k, seed), orthonormal(d, k, seed + 1)
    return (left * energy.double().sqrt() @ right.mT).to(dtype)


def power_law(k: int, exponent: float) -> Tensor:
    return torch.arange(1, k + 1, dtype=torch.float64) ** -exponent


def mean_direction(n: int, d: int, strength: float, seed: int = 0) -> Tensor:
    return gaussian(n, d, seed=seed) + strength * gaussian(d, seed=seed + 1)


def outliers(n: int, d: int, factor: float, dtype: torch.dtype = torch.float32) -> Tensor:
    x = gaussian(n, d, dtype=torch.float64)
    x[[1, n // 2, n - 1]] *= factor
    return x.to(dtype)


def behind_a_coupling(n: int, place: int) -> Tensor:
    """[n, n], of whose Gram matrix two tokens from ``place`` on hold the largest eigenvalue together, each
    of them less than token 0, which touches no other one."""
    gram = torch.diag(torch.tensor([1.0] + [0.01] * (n - 1), dtype=torch.float64))
    gram[place, place], gram[place + 1, place + 1] = 0.97, 0.7
    gram[place, place + 1] = gram[place + 1, place] = 0.2
    return torch.linalg.cholesky(gram).float()


def next_to_nothing(factor: float) -> Tensor:
    """One token, and others so small beside it that their products vanish."""
    x = gaussian(8, 16)
    x[1:] *= factor
    return x


def nearly_a_copy(share: float, dtype: torch.dtype) -> Tensor:
    """Two tokens; once either is picked, so much is left of the other one's square."""
    return torch.tensor([[1.0, 0.0], [1.0, share**0.5]], dtype=dtype)


def nearly_equal(more: float, dtype: torch.dtype) -> Tensor:
    """Two orthogonal tokens, the square of the second one larger by so much."""
    return torch.tensor([[1.0, 0.0], [0.0, (1 + more) ** 0.5]], dtype=dtype)


def sparse(n: int, d: int, seed: int) -> Tensor:
    """Few numbers, between a millionth and one."""
    generator = torch.Generator().manual_seed(seed)
    there = torch.rand(n, d, generator=generator) < 0.05
    size = 10.0 ** (-6 * torch.rand(n, d, generator=generator, dtype=torch.float64))
    return (there * size * gaussian(n, d, dtype=torch.float64, seed=seed)).float()


def zero_row() -> Tensor:
    x = gaussian(12, 20)
    x[4] = 0
    return x


def zero_image() -> Tensor:
    x = gaussian(3, 10, 14)
    x[1] = 0
    return x


def blocks(n: int, d: int, weak: float) -> Tensor:
    """[n, d]: two halves of the tokens in orthogonal feature spaces, the first half the weaker."""
    x = torch.zeros(n, d)
    energy = power_law(min(n, d) // 2, 2)
    x[: n // 2, : d // 2] = weak * with_spectrum(n // 2, d // 2, energy, seed=1)
    x[n // 2 :, d // 2 :] = with_spectrum(n - n // 2, d - d // 2, energy, seed=2)
    return x


def photograph(seed: int = 0) -> Tensor:
    """[576, 1024]: a 24 x 24 grid of smooth features, noise, and a few tokens of massive norm."""
    place = (torch.arange(24, dtype=torch.float64) + 0.5) * torch.pi / 24
    waves = torch.cos(torch.arange(8)[:, None] * place)  # [8, 24]
    grid = torch.einsum("ay,bx->abyx", waves, waves).reshape(64, 576)
    order = torch.arange(8)
    strength = 1 / (1.0 + order[:, None] + order).reshape(64, 1) ** 1.5
    x = grid.mT @ (strength * gaussian(64, 1024, seed=seed, dtype=torch.float64))
    x = x + 0.05 * gaussian(576, 1024, seed=seed + 1, dtype=torch.float64)
    x[[7, 100, 431]] *= 8
    return x.float()


def samples() -> list[Sample]:
    near = torch.tensor([8.0, 5.0, 3.0, 3.0 - 3e-5, 1.0, 0.5])
    return [
        Sample("gaussian", lambda: gaussian(48, 64), 16),
        Sample("batch", lambda: gaussian(3, 40, 56), 8),
        Sample("batch_of_one", lambda: gaussian(1, 20, 24), 5),
        # The spectra of vision features: a mean that holds most energy, and a long tail.
        Sample("mean_direction", lambda: mean_direction(64, 96, 5), 12),
        Sample("mean_direction_weak", lambda: mean_direction(64, 96, 0.7), 12),
        Sample("mean_direction_centered", lambda: mean_direction(64, 96, 5), 12, center=True),
        Sample("mean_huge_centered", lambda: mean_direction(40, 48, 1e4), 12, center=True),
        Sample("power_law", lambda: with_spectrum(96, 128, power_law(96, 1.0)), 24),
        Sample("power_law_tail", lambda: with_spectrum(96, 128, power_law(96, 3.0)), 24, 0.9999),
        Sample("power_law_steep", lambda: with_spectrum(80, 100, power_law(80, 6.0)), 8, 0.999),
        Sample("photograph", photograph, 32),
        Sample("photograph_long_tail", lambda: photograph(2), 64, 0.995),
        # Few tokens decide.
        Sample("outliers", lambda: outliers(64, 80, 30.0), 8),
        Sample("outliers_massive", lambda: outliers(64, 80, 1e4), 8),
        Sample("outliers_float16", lambda: outliers(64, 80, 1e4, torch.float16), 8),
        Sample("duplicates", lambda: gaussian(12, 40).repeat(3, 1), 10),
        Sample("all_equal", lambda: gaussian(1, 24).repeat(16, 1), 5),
        # No gap, or hardly one, to tell the leading directions from the rest.
        Sample("low_rank", lambda: with_spectrum(48, 64, torch.ones(5)), 10, 0.99),
        Sample(
            "low_rank_asked_for_more", lambda: with_spectrum(30, 40, power_law(4, 1)), 9, rank=8
        ),
        Sample("low_rank_features", lambda: with_spectrum(60, 20, power_law(4, 1)), 9, rank=8),
        Sample(
            "degenerate_cut", lambda: with_spectrum(40, 50, torch.tensor([4.0, 2, 2, 2])), 6, 0.7
        ),
        Sample("near_degenerate_cut", lambda: with_spectrum(48, 64, near), 8, 0.75),
        Sample("orthonormal_tokens", lambda: orthonormal(64, 24).mT.float().contiguous(), 6),
        Sample("unit_vectors", lambda: torch.eye(20, 32), 7),
        Sample("whole_energy", lambda: gaussian(20, 30), 6, 1.0),
        # What could make a reduction that starts at token 0 stop too soon.
        Sample("blind_start", lambda: blocks(96, 128, weak=0.2), 12, 0.8),
        Sample("blind_start_at_zero", lambda: blocks(96, 128, weak=0.0), 12, 0.8),
        Sample("blind_start_features", lambda: blocks(160, 128, weak=0.2).mT.contiguous().mT, 12),
        Sample("few_directions", lambda: with_spectrum(200, 256, power_law(200, 2.4)), 16, 0.99),
        Sample("many_duplicates", lambda: gaussian(64, 96).repeat(4, 1), 30),
        Sample("behind_a_coupling", lambda: behind_a_coupling(20, 8), 2, rank=1),
        Sample("next_to_nothing", lambda: next_to_nothing(1e-20), 2),
        Sample("next_to_nothing_less", lambda: next_to_nothing(1e-17), 2),
        Sample("sparse", lambda: sparse(40, 30, 0), 6),
        # Shapes.
        Sample("more_tokens", lambda: gaussian(200, 32), 20),
        Sample("more_tokens_batch", lambda: gaussian(2, 90, 24, seed=3), 20),
        Sample(
            "more_tokens_ill_conditioned",
            lambda: with_spectrum(200, 32, torch.logspace(0, -4.5, 32)),
            30,
            rank=32,
        ),
        Sample("square", lambda: gaussian(32, 32), 8),
        Sample("one_token", lambda: gaussian(1, 16), 1),
        Sample("one_number", lambda: gaussian(1, 1), 1),
        Sample("one_feature", lambda: gaussian(9, 1), 3),
        Sample("keep_all", lambda: gaussian(18, 26), 18),
        Sample("keep_none", lambda: gaussian(18, 26), 0),
        Sample("explicit_rank", lambda: gaussian(2, 30, 50), 7, rank=7),
        Sample("explicit_rank_features", lambda: gaussian(60, 20), 7, rank=5),
        Sample("full_rank", lambda: gaussian(10, 30), 4, rank=10),
        # Zeros.
        Sample("zeros", lambda: torch.zeros(12, 20), 5),
        Sample("zeros_more_tokens", lambda: torch.zeros(20, 12), 5, rank=3),
        Sample("zero_row", zero_row, 11),
        Sample("zero_image", zero_image, 4),
        # Number types and scales.
        Sample("float64", lambda: gaussian(40, 56, dtype=torch.float64), 9),
        Sample(
            "float64_tail",
            lambda: with_spectrum(50, 60, power_law(50, 4), dtype=torch.float64),
            9,
            1 - 1e-5,
        ),
        Sample("float64_features", lambda: gaussian(70, 20, dtype=torch.float64), 9),
        Sample("float64_centered", lambda: mean_direction(40, 56, 5).double(), 9, 0.8, center=True),
        Sample("float64_huge", lambda: gaussian(20, 24, dtype=torch.float64) * 1e200, 5),
        Sample("float16", lambda: gaussian(2, 40, 56, dtype=torch.float16), 9),
        Sample("bfloat16", lambda: gaussian(2, 40, 56, dtype=torch.bfloat16), 9),
        Sample("bfloat16_features", lambda: gaussian(300, 40, dtype=torch.bfloat16), 9),
        Sample("tiny", lambda: gaussian(40, 56) * 1e-30, 9),
        Sample("tiny_features", lambda: gaussian(80, 20) * 1e-30, 9),
        Sample("subnormal", lambda: gaussian(24, 30) * 1e-40, 9),
        Sample("huge", lambda: gaussian(40, 56) * 1e25, 9),
        Sample("huge_features", lambda: gaussian(80, 20) * 1e25, 9),
        Sample("huge_centered", lambda: mean_direction(40, 56, 3) * 1e25, 9, center=True),
    ]


def sample(name: str) -> Sample:
    return next(s for s in samples() if s.name == name)
