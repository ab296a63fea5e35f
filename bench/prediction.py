"""How long a call takes, told from how the solver goes about the image: a short calibration on this machine.

On features of one shape and dtype the time depends on the steps of the tridiagonalisation and on the rank,
hardly on the numbers. So the operator is timed on a few made spectra, and between those the time is
interpolated: over the steps where the solver stops early, over the rank where it goes to the end.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from bench.hard_suite import with_energy
from bench.inputs import flat
from bench.timing import interleaved, median
from svdprune_ext.ops import Diagnosis, diagnose, leverage_scores

# A power law stops after more and more steps as more energy is asked for, and flat features never do.
_DECAY = 1.5
_VARIANCES_OF_POWER_LAW = (0.5, 0.7, 0.8, 0.85, 0.9, 0.93)
_VARIANCES_OF_FLAT = (0.3, 0.6, 0.9, 0.99)


@dataclass(frozen=True)
class Curve:
    """Seconds over the steps, or over the rank.

    Attributes:
        points: (steps or rank, seconds), ascending.
    """

    points: Sequence[tuple[float, float]]

    @classmethod
    def through(cls, measured: Iterable[tuple[float, float]]) -> Curve:
        """The curve of measured points in any order; the median where several lie at one place."""
        at: dict[float, list[float]] = {}
        for place, seconds in measured:
            at.setdefault(place, []).append(seconds)
        return cls(sorted((place, median(seconds)) for place, seconds in at.items()))

    def at(self, place: float) -> float:
        """Seconds: linear between the points and after the last, level before the first."""
        right = min(bisect_left([x for x, _ in self.points], place), len(self.points) - 1)
        if right == 0:
            return self.points[0][1]
        (x0, t0), (x1, t1) = self.points[right - 1 : right + 1]
        return t0 + (t1 - t0) * (place - x0) / (x1 - x0)


@dataclass(frozen=True)
class Calibration:
    """What calls on features of one shape and dtype take, one image each, by the solver "tridiag".

    Attributes:
        early: Over the steps, where the solver stops early.
        full: Over the rank, where it goes to the end.
    """

    early: Curve
    full: Curve

    def seconds(self, found: Diagnosis) -> float:
        """The time predicted for an image that the solver goes about as found."""
        stopped = found.steps < found.size
        curve, place = (self.early, found.steps) if stopped else (self.full, found.rank)
        return (curve if curve.points else self.full).at(int(place))


@dataclass(frozen=True)
class Prediction:
    """The calibrations for images of one shape and dtype.

    Attributes:
        single: In the working precision of the features.
        double: In float64, for an image that is solved again.
    """

    single: Calibration
    double: Calibration

    def seconds(self, found: Diagnosis) -> float | None:
        """The time predicted for an image that the solver goes about as found.

        Args:
            found: Of one image.

        Returns:
            Seconds; None where "tridiag" was not what ran.
        """
        if found.solver != ["tridiag"]:
            return None
        again = self.double.seconds(found) if found.refined else 0.0
        return self.single.seconds(found) + again


def predict(shape: tuple[int, int], dtype: torch.dtype, budget: float = 0.1) -> Prediction:
    """Calibrates on this machine.

    Args:
        shape: N and D of the features.
        dtype: Of the features.
        budget: Seconds that each of the spectra may be timed for.

    Returns:
        The prediction for such features.
    """
    tokens, width = shape
    index = torch.arange(1, min(shape) + 1, dtype=torch.float64)
    law, level = with_energy(tokens, width, index**-_DECAY), flat(tokens, width)
    asked = [(law, v) for v in _VARIANCES_OF_POWER_LAW] + [(level, v) for v in _VARIANCES_OF_FLAT]
    return Prediction(
        *(
            _calibrate([(x.to(kind), variance) for x, variance in asked], budget)
            for kind in (dtype, torch.float64)
        )
    )


def _calibrate(asked: Sequence[tuple[Tensor, float]], budget: float) -> Calibration:
    found = [diagnose(x, variance=variance, solver="tridiag") for x, variance in asked]
    calls: dict[str, Callable[[], object]] = {
        str(index): partial(leverage_scores, x, variance=variance, solver="tridiag")
        for index, (x, variance) in enumerate(asked)
    }
    seconds = [median(times) for times in interleaved(calls, budget=budget).values()]
    measured = [
        (one, time)
        for one, time in zip(found, seconds, strict=True)
        if one.solver == ["tridiag"] and not one.refined
    ]
    return Calibration(
        early=Curve.through((int(f.steps), t) for f, t in measured if f.steps < f.size),
        full=Curve.through((int(f.rank), t) for f, t in measured if f.steps == f.size),
    )
