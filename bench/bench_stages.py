"""Which of the five stages takes the time? One image, float32, on the native side's own clock."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import pytest

from bench.inputs import Case
from bench.timing import ReplayClock
from svdprune_ext._load import load_native

KEEP = 32
VARIANCE = 0.9
STAGES = ("gram", "spectrum", "leverage", "select", "gather")
CASES = (
    Case(1, 576, 1024),
    Case(1, 576, 4096),
    Case(1, 2880, 1024),
    Case(1, 576, 1024, "flat"),
)
CLOCK = ReplayClock()


class Measured(NamedTuple):
    """Durations of every stage on one case and by one rule of selection, one entry per round."""

    case: Case
    pivoted: bool
    durations: dict[str, list[float]]


@pytest.fixture(
    scope="module",
    params=[(case, pivoted) for case in CASES for pivoted in (False, True)],
    ids=lambda param: f"{param[0]}{'-pivoted' if param[1] else ''}",
)
def measured(request: pytest.FixtureRequest, budget: float) -> Measured:
    stage_times = getattr(load_native(), "stage_times", None)
    if stage_times is None:
        pytest.skip("this build of svdprune_ext has no _native.stage_times: rebuild it")
    case, pivoted = request.param
    x = case.features()[0].numpy()
    stage_times(x, KEEP, VARIANCE, pivoted)
    rounds: list[dict[str, float]] = []
    deadline = time.perf_counter() + budget
    while len(rounds) < 3 or (len(rounds) < 100 and time.perf_counter() < deadline):
        rounds.append(stage_times(x, KEEP, VARIANCE, pivoted))
    return Measured(case, pivoted, {stage: [r[stage] for r in rounds] for stage in STAGES})


@pytest.mark.benchmark(timer=CLOCK.now)
@pytest.mark.parametrize("stage", STAGES)
def test_stage(measured: Measured, stage: str, benchmark: Any) -> None:
    case = measured.case
    rule = ", pivoted" if measured.pivoted else ""
    benchmark.group = f"stages {case}{rule}"
    benchmark.extra_info.update(
        table="stages",
        tokens=case.tokens,
        width=case.width,
        spectrum=case.spectrum + rule,
        column=stage,
    )
    CLOCK.replay(benchmark, measured.durations[stage])
