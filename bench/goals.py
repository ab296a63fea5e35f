"""How fast the CPU backend is meant to be on two cores, as data; ``bench.report`` says what was reached."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Any

from bench.document import SINGLY

CORES = 2


@dataclass(frozen=True)
class Goal:
    """The operator is to be ``ratio`` times as fast as a competitor, by medians of one run.

    Attributes:
        images: Batch size B of the case.
        tokens: N.
        width: D.
        ranks: The least and the highest rank of the case.
        over: The competitor, a column of the table "prune".
        ratio: How many times as fast.
        reason: Why a miss is one. ``{allowed}``, the time that the goal leaves, and the stages' names
            with ``{sum}``, the times of one image's stages, are put in as measured.
    """

    images: int
    tokens: int
    width: int
    ranks: tuple[float, float]
    over: str
    ratio: float
    reason: str

    def holds_for(self, row: dict[str, Any]) -> bool:
        """Whether a row of the table "prune" is this goal's case."""
        case = (row["images"], row["tokens"], row["width"])
        least, highest = self.ranks
        return case == (self.images, self.tokens, self.width) and least <= row["rank"] <= highest


_PHOTOGRAPH = (1, 27)
_FLAT = (101, inf)

_TWO_STAGES = (
    "The goal leaves {allowed}. The Gram matrix takes {gram} and the spectrum {spectrum} of {sum}; both have "
    "both cores, and the product runs at the speed of the cores' multiply-adds."
)
_PRODUCT = (
    "The goal leaves {allowed}, and the Gram matrix takes {gram} of the operator's {sum}: half of a matrix "
    "product, on both cores, which no eigensolver can shorten."
)
_NO_STOP = (
    "The goal leaves {allowed}. A flat spectrum takes all steps of the reduction, each a pass over the rest "
    "of the matrix that waits for memory, and the vectors of some hundred directions: {spectrum} of {sum}."
)
_BOTH_CORES = (
    "A call of one image has both cores already, in every long stage ({sum}); a batch saves only what two "
    "threads lose to each other there."
)

GOALS = (
    Goal(1, 576, 1024, _PHOTOGRAPH, "svd", 15, _TWO_STAGES),
    Goal(1, 576, 1024, _PHOTOGRAPH, "gram_eigh", 4, _TWO_STAGES),
    Goal(1, 576, 4096, _PHOTOGRAPH, "svd", 25, _PRODUCT),
    Goal(1, 576, 4096, _PHOTOGRAPH, "gram_eigh", 2.5, _PRODUCT),
    Goal(1, 576, 1024, _FLAT, "svd", 8, _NO_STOP),
    Goal(1, 576, 1024, _FLAT, "gram_eigh", 2.3, _NO_STOP),
    Goal(1, 2880, 1024, _PHOTOGRAPH, "svd", 6, _TWO_STAGES),
    Goal(8, 576, 1024, _PHOTOGRAPH, SINGLY, 1.8, _BOTH_CORES),
    Goal(8, 576, 4096, _PHOTOGRAPH, SINGLY, 1.8, _BOTH_CORES),
    Goal(8, 2880, 1024, _PHOTOGRAPH, SINGLY, 1.8, _BOTH_CORES),
)
