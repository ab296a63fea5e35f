"""Does what was kept agree with a float64 SVD of the very same features?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from svdprune_ext.demo.measure import Run
from svdprune_ext.reference import oracle_leverage, oracle_topk

_SCORE_TOLERANCE = 2e-4
_GAP_TOLERANCE = 6e-8
_ENERGY_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Agreement:
    """The operator against the oracle, on one image.

    Attributes:
        overlap: Kept tokens that the oracle keeps too.
        keep: Kept tokens.
        max_score_difference: Largest difference of two scores.
        score_tolerance: What is allowed: ``max(2e-4, 6e-8 / gap)``.
        gap: Relative distance of the eigenvalues on both sides of the cut.
        rank: The operator's.
        oracle_rank: The oracle's.
        rows_equal: Whether the projector got the kept rows of the features, bit for bit.
        reasons: Why it does not agree; empty where it does.
        oracle_indices: What the oracle keeps [keep].
        energy: Squared singular values over the largest, descending, float64 [min(N, D)].
    """

    overlap: int
    keep: int
    max_score_difference: float
    score_tolerance: float
    gap: float
    rank: int
    oracle_rank: int
    rows_equal: bool
    reasons: tuple[str, ...]
    oracle_indices: Tensor
    energy: Tensor

    @property
    def agrees(self) -> bool:
        """Whether every check holds."""
        return not self.reasons


def check_agreement(run: Run, variance: float) -> Agreement:
    """Compares a pruned run with the float64 oracle on the run's own features.

    Args:
        run: A run with pruning.
        variance: Share of the energy that it was run with.

    Returns:
        The comparison.
    """
    assert run.indices is not None
    assert run.scores is not None
    assert run.rank is not None
    features = run.features.cpu()
    oracle = oracle_leverage(features, variance)
    expected = oracle_topk(oracle.scores, len(run.indices))
    oracle_rank = oracle.rank
    reasons = []

    share = oracle.energy.cumsum(0) / oracle.energy.sum()
    if run.rank != oracle_rank:
        # Another rank is right only where the energy at the cut lies on the threshold.
        lower = min(run.rank, oracle_rank)
        if abs(run.rank - oracle_rank) > 1 or abs(share[lower - 1] - variance) > _ENERGY_TOLERANCE:
            reasons.append(f"rank {run.rank}, oracle {oracle_rank}")
        oracle = oracle_leverage(features, rank=run.rank)
        expected = oracle_topk(oracle.scores, len(run.indices))

    gap = _gap(oracle.energy, run.rank)
    tolerance = max(_SCORE_TOLERANCE, _GAP_TOLERANCE / gap if gap > 0 else float("inf"))
    difference = (run.scores.double() - oracle.scores).abs().max().item()
    if difference > tolerance:
        reasons.append(f"scores differ by {difference:.2e}, allowed {tolerance:.2e}")

    swapped = set(run.indices.tolist()) ^ set(expected.tolist())
    if swapped:
        # Tokens may change places only where their scores cannot be told apart.
        threshold = oracle.scores[expected].min()
        distance = (oracle.scores[sorted(swapped)] - threshold).abs().max().item()
        if distance > 2 * tolerance:
            reasons.append(f"{len(swapped) // 2} other tokens kept")

    rows_equal = torch.equal(run.projected.cpu(), features[run.indices])
    if not rows_equal:
        reasons.append("the projector did not get the kept rows")
    return Agreement(
        overlap=len(run.indices) - len(swapped) // 2,
        keep=len(run.indices),
        max_score_difference=difference,
        score_tolerance=tolerance,
        gap=gap,
        rank=run.rank,
        oracle_rank=oracle_rank,
        rows_equal=rows_equal,
        reasons=tuple(reasons),
        oracle_indices=expected,
        energy=oracle.energy,
    )


def _gap(energy: Tensor, rank: int) -> float:
    if rank < 1 or rank >= len(energy):
        return 1.0
    return float((energy[rank - 1] - energy[rank]) / energy[0])
