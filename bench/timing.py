"""How every benchmark here takes time: one process, alternating rounds, medians."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent


def median(durations: Sequence[float]) -> float:
    """Median of durations in seconds."""
    return statistics.median(durations)


def interleaved(
    candidates: Mapping[str, Callable[[], object]],
    *,
    budget: float,
    min_rounds: int = 3,
    max_rounds: int = 100,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Times competitors in alternating rounds, so that the machine's mood meets all alike.

    A candidate that has used up its budget and its least rounds drops out; the others go on.

    Args:
        candidates: What to time, by name; each is called once untimed before.
        budget: Seconds that each candidate may take in all its timed rounds.
        min_rounds: Rounds that even the slowest candidate gets.
        max_rounds: Rounds after which the fastest candidate stops.
        clock: Seconds, monotonic.

    Returns:
        Durations in seconds by name.
    """
    for candidate in candidates.values():
        candidate()
    durations: dict[str, list[float]] = {name: [] for name in candidates}
    running = list(candidates)
    while running:
        for name in running:
            start = clock()
            candidates[name]()
            durations[name].append(clock() - start)
        running = [
            name
            for name in running
            if len(durations[name]) < min_rounds
            or (len(durations[name]) < max_rounds and sum(durations[name]) < budget)
        ]
    return durations


class ReplayClock:
    """Hands durations that ``interleaved`` measured to pytest-benchmark.

    pytest-benchmark times one candidate after the other. To keep its tables, groups and JSON with
    alternating rounds, a benchmark runs ``advance`` under this clock as its timer.
    """

    def __init__(self) -> None:
        self._now = 0.0

    def now(self) -> float:
        """The timer: seconds replayed so far."""
        return self._now

    def replay(self, benchmark: Any, durations: Sequence[float]) -> None:
        """Runs ``benchmark`` (a fixture whose timer is ``now``), one round per duration."""
        remaining = iter(durations)
        benchmark.pedantic(lambda: self._advance(next(remaining)), rounds=len(durations))

    def _advance(self, seconds: float) -> None:
        self._now += seconds


def describe_machine() -> dict[str, Any]:
    """The machine and the versions that a result holds for."""
    import svdprune_ext

    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "svdprune": svdprune_ext.__version__,
        "revision": _git_revision(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _git_revision() -> str:
    try:
        result = subprocess.run(
            ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return result.stdout.strip()
