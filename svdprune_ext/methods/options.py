"""What a method's options may be: types of a rule's keyword-only arguments, each with its range."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Real
from typing import Annotated, Any, NamedTuple

import torch

SOLVERS = ("auto", "tridiag", "eigh", "purify")
SELECTS = ("topk", "pivoted")


class Range(NamedTuple):
    """The values that an option takes: in words, and as a predicate."""

    expected: str
    holds: Callable[[Any], bool]


def one_of(*names: str) -> Range:
    """One of these names."""
    return Range(f"one of {', '.join(names)}", lambda value: value in names)


def optional(value: Range) -> Range:
    """None, or such a value."""
    return Range(f"None or {value.expected}", lambda given: given is None or value.holds(given))


def at_least(least: int) -> Range:
    """Such an int."""
    return Range(f"an int >= {least}", lambda value: is_int(value, least))


def is_int(value: Any, least: int | None = None) -> bool:
    """Whether it is an int, and no bool, of at least so much."""
    right = isinstance(value, int) and not isinstance(value, bool)
    return right and (least is None or value >= least)


def is_share(value: Any) -> bool:
    """Whether it is a number in (0, 1]."""
    return isinstance(value, Real) and not isinstance(value, bool) and 0 < float(value) <= 1


def _is_grid(value: Any) -> bool:
    is_pair = isinstance(value, tuple | list) and len(value) == 2
    return is_pair and all(is_int(side, least=1) for side in value)


def _is_seed(value: Any) -> bool:
    return is_int(value) and -(2**63) <= value < 2**64  # what torch.Generator takes


Share = Annotated[float, Range("in (0, 1]", is_share)]
Flag = Annotated[bool, Range("a bool", lambda value: isinstance(value, bool))]
Count = Annotated[int, at_least(1)]
Rank = Annotated[int | None, optional(at_least(1))]
Number = Annotated[int | None, optional(at_least(0))]
Seed = Annotated[
    int | torch.Generator,
    Range(
        "an int of 64 bits or a torch.Generator",
        lambda value: isinstance(value, torch.Generator) or _is_seed(value),
    ),
]
Grid = Annotated[tuple[int, int] | None, optional(Range("(height, width)", _is_grid))]
