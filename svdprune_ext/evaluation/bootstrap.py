"""Accuracies with 95 % intervals.

Note [which interval]
One kind of question is asked at most once about an image, so its answers are independent, and its interval is
Wilson's. The compositional mean is of several questions about each image: its interval, and that of a
difference between two cells on the same images, comes from resampling images, all their questions together
(percentiles). Where the answers of several seeds are pooled, their mean counts as one answer to each
question.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from svdprune_ext.tiny_vlm.questions import COMPOSITIONAL, KINDS, READING

RESAMPLES = 2000
MEASURES = ("compositional", "reading", *KINDS)
_Z = 1.959963984540054  # of the normal distribution, two-sided 95 %


@dataclass(frozen=True)
class Interval:
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float

    def to_json(self) -> list[float | None]:
        """``[value, low, high]``, None for what is not defined."""
        return [None if math.isnan(v) else round(v, 5) for v in (self.value, self.low, self.high)]


@dataclass(frozen=True)
class Tally:
    """Right answers of a cell.

    Attributes:
        right: By image and kind, the mean over seeds [images, kinds]; 0 where nothing was asked.
        asked: 1 or 0 [images, kinds].
    """

    right: NDArray[np.float64]
    asked: NDArray[np.float64]

    @classmethod
    def of(cls, records: Sequence[dict[str, str]]) -> Tally:
        """Pools the marks of ``records.right_by_kind``, one of each seed."""
        marks = np.array([[list(record[kind]) for kind in KINDS] for record in records])
        right = (marks == "1").mean(axis=0).T
        return cls(right, (marks[0] != "-").T.astype(np.float64))


class Bootstrap:
    """Intervals for tallies of the same images."""

    def __init__(self, images: int, resamples: int = RESAMPLES, seed: int = 0) -> None:
        """Draws how often each image counts in each resample; the first line is the images as they are."""
        rng = np.random.default_rng(seed)
        drawn = rng.multinomial(images, np.full(images, 1 / images), size=resamples)
        self._weights = np.concatenate([np.ones((1, images)), drawn])

    def accuracy(self, tally: Tally) -> dict[str, Interval]:
        """Each of ``MEASURES`` with its interval."""
        resampled = self._measures(tally)
        intervals = {"compositional": _percentiles(resampled["compositional"])}
        for name in MEASURES[1:]:
            kind = READING[0] if name == "reading" else name
            column = KINDS.index(kind)
            intervals[name] = wilson(tally.right[:, column].sum(), tally.asked[:, column].sum())
        return intervals

    def difference(self, tally: Tally, other: Tally) -> dict[str, Interval]:
        """Each of ``MEASURES`` of the first less that of the second, image by image."""
        first, second = self._measures(tally), self._measures(other)
        return {name: _percentiles(first[name] - second[name]) for name in MEASURES}

    def _measures(self, tally: Tally) -> dict[str, NDArray[np.float64]]:
        right, asked = self._weights @ tally.right, self._weights @ tally.asked
        shares = np.divide(right, asked, out=np.full_like(right, np.nan), where=asked > 0)
        by_kind = dict(zip(KINDS, shares.T, strict=True))
        mean = np.mean([by_kind[kind] for kind in COMPOSITIONAL], axis=0)
        return {"compositional": mean, "reading": by_kind[READING[0]], **by_kind}


def wilson(right: float, asked: float) -> Interval:
    """The share of right answers with Wilson's interval; undefined where none was asked."""
    if asked == 0:
        return Interval(math.nan, math.nan, math.nan)
    share = right / asked
    middle = (share + _Z**2 / (2 * asked)) / (1 + _Z**2 / asked)
    half = math.sqrt(share * (1 - share) / asked + (_Z / (2 * asked)) ** 2)
    half *= _Z / (1 + _Z**2 / asked)
    return Interval(share, max(0.0, middle - half), min(1.0, middle + half))


def _percentiles(values: NDArray[np.float64]) -> Interval:
    """The first value, with percentiles of the others; resamples in which it is undefined do not count."""
    if np.isnan(values[0]):
        return Interval(math.nan, math.nan, math.nan)
    low, high = np.nanpercentile(values[1:], (2.5, 97.5))
    return Interval(float(values[0]), float(low), float(high))
