"""Does what was kept agree with the rule in float64 on the very same features?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from svdprune_ext.demo.measure import Run
from svdprune_ext.demo.settings import Settings
from svdprune_ext.reference import oracle_leverage, oracle_pivoted, oracle_topk

_SCORE_TOLERANCE = 2e-4
_GAP_TOLERANCE = 1e-6  # what every solver promises
_ENERGY_TOLERANCE = 1e-5
_PIVOTED_TOLERANCE = 1e-5
_SAME_LENGTH = 5e-6  # by which what is left of two tokens may differ that cannot be told apart


@dataclass(frozen=True)
class Agreement:
    """The operator against the oracle, on one image.

    Attributes:
        overlap: Kept tokens that the oracle keeps too.
        keep: Kept tokens.
        max_score_difference: Largest difference of two scores.
        score_tolerance: What is allowed: ``max(2e-4, 1e-6 / gap)``; 1e-5 for "pivoted".
        gap: Relative distance of the eigenvalues on both sides of the cut; None for "pivoted": it cuts none.
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
    gap: float | None
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


def check_agreement(run: Run, settings: Settings) -> Agreement:
    """Compares a pruned run with the float64 oracle of its rule on the run's own features.

    Args:
        run: A run with pruning.
        settings: The rule that it was run with.

    Returns:
        The comparison.
    """
    return _check_pivoted(run) if settings.pivoted else _check_topk(run, settings.energy_asked)


def _check_topk(run: Run, variance: float) -> Agreement:
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

    rows_equal = _rows_equal(run, reasons)
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


def _check_pivoted(run: Run) -> Agreement:
    assert run.indices is not None
    assert run.scores is not None
    assert run.rank is not None
    features, keep = run.features.cpu().double(), len(run.indices)
    eps = torch.finfo(run.scores.dtype).eps
    reasons = []
    pivots = oracle_pivoted(features, keep, eps=eps)
    if set(run.indices.tolist()) != set(pivots.order.tolist()):
        # Another pick is right only where as much was left of it. Made longer by that little, which changes
        # no direction, the tokens that the operator kept win such draws.
        favoured = features.clone()
        favoured[run.indices] *= 1 + _SAME_LENGTH
        pivots = oracle_pivoted(favoured, keep, eps=eps)
    overlap = len(set(run.indices.tolist()) & set(pivots.order.tolist()))
    if overlap < keep:
        reasons.append(f"{keep - overlap} other tokens kept")
    if run.rank != pivots.rank:
        reasons.append(f"rank {run.rank}, oracle {pivots.rank}")
    shares = features.new_zeros(len(features)).index_put((pivots.order,), pivots.shares)
    difference = (run.scores.double() - shares).abs().max().item()
    if difference > _PIVOTED_TOLERANCE:
        reasons.append(f"scores differ by {difference:.2e}, allowed {_PIVOTED_TOLERANCE:.2e}")
    rows_equal = _rows_equal(run, reasons)
    return Agreement(
        overlap=overlap,
        keep=keep,
        max_score_difference=difference,
        score_tolerance=_PIVOTED_TOLERANCE,
        gap=None,
        rank=run.rank,
        oracle_rank=pivots.rank,
        rows_equal=rows_equal,
        reasons=tuple(reasons),
        oracle_indices=pivots.order.sort().values,
        energy=oracle_leverage(features).energy,
    )


def _rows_equal(run: Run, reasons: list[str]) -> bool:
    """Whether the projector got the kept rows, bit for bit; if not, says so in the reasons."""
    assert run.indices is not None
    equal = torch.equal(run.projected.cpu(), run.features.cpu()[run.indices])
    if not equal:
        reasons.append("the projector did not get the kept rows")
    return equal


def _gap(energy: Tensor, rank: int) -> float:
    if rank < 1 or rank >= len(energy):
        return 1.0
    return float((energy[rank - 1] - energy[rank]) / energy[0])
