"""How fast is ``svdprune::prune`` against the same method in plain PyTorch?

Competitors, on the same features, in alternating rounds of one process:

* ``svdprune``: the operator with its default solver;
* ``svdprune_singly``: the same, a call for each image of a batch (batches only);
* ``svdprune_eigh``: the operator with LAPACK's eigensolver;
* ``svdprune_pivoted``: the operator with select "pivoted", which needs none;
* ``gram_eigh``: Gram matrix and ``torch.linalg.eigh``, what a careful PyTorch user would write;
* ``svd``: ``torch.linalg.svd`` of the features, the method to the letter.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch

import svdprune_ext  # noqa: F401  (loads the operators)
from bench.document import SINGLY
from bench.inputs import Case
from bench.timing import ReplayClock, interleaved
from svdprune_ext.reference import gram_eigh_prune, reference_prune

KEEP = 32
SHAPES = ((256, 1024), (576, 1024), (576, 4096), (2880, 1024))
CASES = (
    *(Case(images, tokens, width) for tokens, width in SHAPES for images in (1, 8)),
    Case(1, 576, 1024, "flat"),
)
CANDIDATES = {
    "svdprune": lambda x: torch.ops.svdprune.prune(x, KEEP),
    SINGLY: lambda x: [torch.ops.svdprune.prune(image, KEEP) for image in x],
    "svdprune_eigh": lambda x: torch.ops.svdprune.prune(x, KEEP, solver="eigh"),
    "svdprune_pivoted": lambda x: torch.ops.svdprune.prune(x, KEEP, select="pivoted"),
    "gram_eigh": lambda x: gram_eigh_prune(x, KEEP),
    "svd": lambda x: reference_prune(x, KEEP),
}
CLOCK = ReplayClock()


def candidates_of(case: Case) -> list[str]:
    """Names of the competitors on a case."""
    return [name for name in CANDIDATES if name != SINGLY or case.images > 1]


ENTRIES = [
    pytest.param(case, name, id=f"{case}-{name}") for case in CASES for name in candidates_of(case)
]


class Measured(NamedTuple):
    """Durations of every candidate on one case, and the case's mean rank."""

    case: Case
    rank: float
    durations: dict[str, list[float]]


@pytest.fixture(scope="module")
def measured(request: pytest.FixtureRequest, budget: float, quick: bool) -> Measured:
    case = request.param
    if quick and case.images > 1:
        pytest.skip("--quick: one image a call")
    x = case.features()
    rank = torch.ops.svdprune.prune(x, KEEP)[3].float().mean().item()
    durations = interleaved(
        {name: lambda run=CANDIDATES[name]: run(x) for name in candidates_of(case)},
        budget=budget,
        min_rounds=2 if quick else 3,
    )
    return Measured(case, rank, durations)


@pytest.mark.benchmark(timer=CLOCK.now)
# With the scope of `measured` named, lest a case be measured again for each of its candidates.
@pytest.mark.parametrize(("measured", "candidate"), ENTRIES, indirect=["measured"], scope="module")
def test_prune(measured: Measured, candidate: str, benchmark: Any) -> None:
    case = measured.case
    benchmark.group = str(case)
    benchmark.extra_info.update(
        table="prune",
        images=case.images,
        tokens=case.tokens,
        width=case.width,
        spectrum=case.spectrum,
        keep=KEEP,
        rank=measured.rank,
        column=candidate,
    )
    CLOCK.replay(benchmark, measured.durations[candidate])
