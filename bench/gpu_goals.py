"""How fast the CUDA backend is meant to be on a Hopper GPU; ``bench.report`` says what was reached."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Result = dict[str, Any]


@dataclass(frozen=True)
class GpuGoal:
    """Something measured is to stay below a time, or to be at least a ratio.

    Attributes:
        images: Batch size B of 576 tokens of 1024 features in bfloat16.
        spectrum: "photograph", of rank 30 at most, or "flat".
        what: What is measured, in words.
        measured: Seconds, or the ratio, from a result of ``bench/run_gpu.sh``'s row of that input in "micro"
            and the kernels by operator; KeyError where it was not measured.
        seconds: The most, for a time.
        ratio: The least, where there is no time.
        reason: Why a miss is one.
    """

    images: int
    spectrum: str
    what: str
    measured: Callable[[Result, dict[str, dict[str, float]]], float]
    seconds: float | None = None
    ratio: float = 0.0
    reason: str = ""

    @property
    def case(self) -> Result:
        """The input, as rows of a result have it."""
        size = {"images": self.images, "tokens": 576, "width": 1024}
        return {**size, "dtype": "bfloat16", "spectrum": self.spectrum}

    def value(self, result: Result) -> float | None:
        """What a run reached, None where it did not measure it."""
        case = self.case.items()
        rows = [row for row in result.get("micro", []) if case <= row.items()]
        kernels = {
            row["operator"]: row["kernels"]
            for row in result.get("kernels", [])
            if case <= row.items()
        }
        try:
            return self.measured(rows[0] if rows else {}, kernels)
        except KeyError:
            return None


def _graph(row: Result, _: object) -> float:
    return float(row["graph"]["svdprune"])


def _over(peer: str) -> Callable[[Result, object], float]:
    return lambda row, _: float(row["eager"][peer] / row["eager"]["svdprune"])


def _kernels(operator: str, *names: str) -> Callable[[object, dict[str, dict[str, float]]], float]:
    return lambda _, kernels: sum(kernels[operator][name] for name in names)


GOALS = (
    GpuGoal(1, "photograph", "a call as a CUDA graph", _graph, seconds=250e-6),
    GpuGoal(1, "flat", "a call as a CUDA graph", _graph, seconds=700e-6),
    GpuGoal(1, "photograph", "times as fast as Gram + eigh", _over("gram_eigh"), ratio=15),
    GpuGoal(64, "photograph", "times as fast as Gram + eigh", _over("gram_eigh"), ratio=50),
    GpuGoal(64, "photograph", "times as fast as CuPy", _over("cupy_eigh"), ratio=3),
    GpuGoal(
        *(1, "photograph", 'leverage, select and gather of solver "eigh"'),
        _kernels('solver "eigh"', "leverage_kernel", "select_kernel", "gather_kernel"),
        seconds=25e-6,
    ),
    GpuGoal(
        *(1, "photograph", 'select and gather of select "pivoted", 32 tokens'),
        _kernels('select "pivoted"', "pivot_kernel", "gather_kernel"),
        seconds=40e-6,
        reason="Each of the 32 picks waits for the choice and then for a row of the Gram matrix from L2; a "
        "later run has shorter kernels.",
    ),
)
