"""What a result must agree on with the float64 oracle, and how closely."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from svdprune_ext.reference import Decomposition, oracle_leverage, oracle_topk


@dataclass(frozen=True)
class Promise:
    """Accuracy of a solver in one working precision.

    A score may be off by ``max(floor, noise / gap)`` with gap = (lambda_r - lambda_r+1) / lambda_1: the
    eigenvectors on both sides of the cut mix by the rounding of the Gram matrix over their distance.
    """

    floor: float
    noise: float
    share: float  # how near to the threshold a cumulative energy share leaves the rank open


FLOAT32 = Promise(floor=2e-4, noise=3e-9, share=1e-6)
# Without refinement, as all solvers on CUDA: of 18,000 random images none is off by more than 5.4e-7 / gap;
# plateaus of the spectrum on both sides of the cut are the worst.
FLOAT32_EIGH = Promise(floor=2e-4, noise=1e-6, share=1e-5)
# Works in float64, whatever the input; scores are rounded to float32.
FLOAT32_PURIFY = Promise(floor=1e-6, noise=1e-14, share=1e-12)
# Of 3000 random images the worst is off by 3.7e-15 / gap, by all solvers alike.
FLOAT64 = Promise(floor=1e-8, noise=1e-14, share=1e-12)
UNDEFINED = 0.5  # from this tolerance on, the leading subspace is undefined


def promise_for(dtype: torch.dtype, solver: str) -> Promise:
    if dtype == torch.float64:
        return FLOAT64
    return {"eigh": FLOAT32_EIGH, "purify": FLOAT32_PURIFY}.get(solver, FLOAT32)


def oracle_of(
    x: Tensor, variance: float = 0.9, rank: int | None = None, center: bool = False
) -> Decomposition:
    """The oracle on x [N, D] brought near 1 by a power of two, lest the energies overflow float64."""
    x = x.detach().double()
    largest = x.abs().max().item() if x.numel() else 0.0
    scaled = torch.ldexp(x, torch.tensor(-math.frexp(largest)[1]))
    return oracle_leverage(scaled, variance, rank, center)


def relative_gap(oracle: Decomposition, rank: int) -> float:
    """(lambda_r - lambda_r+1) / lambda_1 of the Gram matrix [N, N]."""
    energy, tokens = oracle.energy, len(oracle.scores)
    if rank == tokens:
        return float("inf")  # every direction is kept
    after = energy[rank].item() if rank < len(energy) else 0.0
    return (energy[rank - 1].item() - after) / energy[0].item()


def tolerance(oracle: Decomposition, rank: int, promise: Promise) -> float:
    gap = relative_gap(oracle, rank)
    return max(promise.floor, promise.noise / gap) if gap > 0 else float("inf")


def assert_rank(rank: int, oracle: Decomposition, variance: float, promise: Promise) -> None:
    """Equal ranks, or off by one where the energy share at the cut lies at the threshold."""
    if rank == oracle.rank:
        return
    assert abs(rank - oracle.rank) == 1, f"rank is {rank}, the oracle's is {oracle.rank}"
    share = oracle.energy.cumsum(0) / oracle.energy.sum()
    distance = abs(share[min(rank, oracle.rank) - 1].item() - variance)
    assert distance <= promise.share, (
        f"rank is {rank}, the oracle's is {oracle.rank}, and the energy share between them is "
        f"{distance:.1e} from variance = {variance}"
    )


def assert_scores(scores: Tensor, oracle: Decomposition, rank: int, promise: Promise) -> None:
    off = (scores.double() - oracle.scores).abs()
    allowed = tolerance(oracle, rank, promise)
    worst = int(off.argmax())
    assert off[worst] <= allowed, (
        f"score of token {worst} is {scores[worst].item():.9g}, the oracle's is "
        f"{oracle.scores[worst].item():.9g}: off by {off[worst].item():.2e}, allowed {allowed:.2e}"
    )


def assert_topk(indices: Tensor, oracle: Decomposition, rank: int, promise: Promise) -> None:
    """Equal sets after leaving out tokens within twice the tolerance of the last score kept."""
    keep = len(indices)
    last = oracle.scores.sort(descending=True).values[keep - 1]
    margin = 2 * tolerance(oracle, rank, promise)
    kept = set(indices.tolist())
    surely = set((oracle.scores > last + margin).nonzero().flatten().tolist())
    never = set((oracle.scores < last - margin).nonzero().flatten().tolist())
    assert surely <= kept, f"tokens {sorted(surely - kept)} are not kept, by the oracle they are"
    assert not kept & never, f"tokens {sorted(kept & never)} are kept, by the oracle they are not"


def assert_image_agrees(
    x: Tensor,
    scores: Tensor,
    rank: int,
    indices: Tensor | None = None,
    *,
    variance: float = 0.9,
    rank_asked: int | None = None,
    center: bool = False,
    solver: str = "auto",
    float32_counts: bool = False,
) -> None:
    """One image: x [N, D], scores [N], rank, and, where tokens were kept, indices [keep]."""
    promise = promise_for(x.dtype, solver)
    oracle = oracle_of(x, variance, rank_asked, center)
    if oracle.rank == 0 or rank == 0:
        assert rank == oracle.rank, f"rank is {rank}, the oracle's is {oracle.rank}"
        assert not scores.any(), "an image without energy has scores other than 0"
    elif rank_asked is not None:
        # With more tokens than features, a direction without any energy is not counted.
        tall = x.shape[0] > x.shape[1]
        counted = int((oracle.energy > 1e-22).sum()) if tall else rank_asked
        expected = min(rank_asked, counted)
        # A float32 Gram matrix tells a direction from its rounding only above this.
        told = int((oracle.energy > 1e-4).sum()) if tall and float32_counts else expected
        least = min(expected, told)
        assert least <= rank <= expected, (
            f"rank is {rank}, asked for {rank_asked}, expected {least} to {expected}"
        )
    else:
        assert_rank(rank, oracle, variance, promise)
    if indices is not None:
        assert indices.tolist() == oracle_topk(scores, len(indices)).tolist(), (
            "the indices are not those of the highest scores"
        )
    if rank == 0:
        return

    allowed = tolerance(oracle, rank, promise)
    assert ((scores >= 0) & (scores <= 1)).all(), "a score lies outside [0, 1]"
    if allowed < UNDEFINED:
        if rank != oracle.rank:
            oracle = oracle_of(x, rank=rank, center=center)
        assert_scores(scores, oracle, rank, promise)
        if indices is not None and len(indices):
            assert_topk(indices, oracle, rank, promise)
    total = scores.double().sum().item()
    slack = len(scores) * promise.floor / 20
    assert abs(total - rank) <= slack, f"the scores sum to {total}, the rank is {rank}"
    if rank_asked is None:
        captured = (oracle.energy[:rank].sum() / oracle.energy.sum()).item()
        assert captured >= variance - promise.share, f"only {captured} of the energy is captured"


def assert_agrees(
    x: Tensor,
    scores: Tensor,
    rank: Tensor,
    indices: Tensor | None = None,
    *,
    options: dict[str, Any],
) -> None:
    """The same for [N, D] or a batch [B, N, D], with the options the operator was given."""
    asked = {
        "variance": options.get("variance", 0.9),
        "rank_asked": options.get("rank"),
        "center": options.get("center", False),
        "solver": options.get("solver", "auto"),
        "float32_counts": options.get("float32_counts", False),
    }
    if x.dim() == 2:
        assert_image_agrees(x, scores, int(rank), indices, **asked)
        return
    for b in range(x.shape[0]):
        kept = None if indices is None else indices[b]
        assert_image_agrees(x[b], scores[b], int(rank[b]), kept, **asked)
