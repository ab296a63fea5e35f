"""The arguments of ``apply``, checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from svdprune_ext.in_decoder import METHODS
from svdprune_ext.methods import available, get
from svdprune_ext.methods.options import SELECTS, SOLVERS, is_int, is_share

LEVELS = ("tile", "image", "prompt")  # each is made of the ones before it
DEFAULT_SELECT = "topk"  # of ``apply``


@dataclass(frozen=True)
class Settings:
    """The arguments of ``apply``, under the same names.

    Raises:
        ValueError: One is out of its range.
    """

    keep: int | float
    coverage: float | None
    per: str
    scope: str
    features: str
    variance: float
    rank: int | None
    center: bool
    solver: str
    positions: str
    method: str = "svd"
    options: Mapping[str, Any] = field(default_factory=dict)
    select: str = DEFAULT_SELECT
    energy: bool = False

    def __post_init__(self) -> None:
        known = self.method in available()
        names = dict.fromkeys([*available(), *METHODS])
        _check("method", known, f"one of {', '.join(names)}", self.method)
        is_float = isinstance(self.keep, float)
        counts = is_share(self.keep) if is_float else is_int(self.keep, least=1)
        _check("keep", counts, "an int >= 1 or a float in (0, 1]", self.keep)
        covers = self.coverage is None or is_share(self.coverage)
        _check("coverage", covers, "None or in (0, 1]", self.coverage)
        _check("per", self.per in LEVELS, f"one of {', '.join(LEVELS)}", self.per)
        _check("scope", self.scope in LEVELS, f"one of {', '.join(LEVELS)}", self.scope)
        wheres = ("encoder", "projector")
        _check("features", self.features in wheres, f"one of {', '.join(wheres)}", self.features)
        _check("variance", is_share(self.variance), "in (0, 1]", self.variance)
        rank_fits = self.rank is None or is_int(self.rank, least=1)
        _check("rank", rank_fits, "None or an int >= 1", self.rank)
        _check("solver", self.solver in SOLVERS, f"one of {', '.join(SOLVERS)}", self.solver)
        _check("select", self.select in SELECTS, f"one of {', '.join(SELECTS)}", self.select)
        for name in ("center", "energy"):
            _check(name, isinstance(getattr(self, name), bool), "a bool", getattr(self, name))
        numberings = ("compact", "original")
        _check(
            "positions",
            self.positions in numberings,
            f"None or one of {', '.join(numberings)}",
            self.positions,
        )

        self._check_method()

    def _check_method(self) -> None:
        if self.method == "svd":
            _check("options", not self.options, "empty for method svd", dict(self.options))
            if self.select == "pivoted":
                self._check_pivoted()
            return
        method, only = get(self.method), f"left out for method {self.method}"
        within = f"within the language model, where {self.method} prunes, which is not supported"
        _check(
            "method",
            method.attention != "decoder",
            f"one that does not prune {within}",
            method.name,
        )
        self._check_left_out(
            f"{only}, which takes options",
            coverage=None,
            variance=0.9,
            rank=None,
            center=False,
            solver="auto",
            select=DEFAULT_SELECT,
        )
        _check("scope", self.scope == self.per, f"per, {self.per!r}, for {self.method}", self.scope)
        method.check_options(dict(self.options))

    def _check_pivoted(self) -> None:
        only = "left out for select pivoted, which needs no leading directions"
        self._check_left_out(only, variance=0.9, rank=None, solver="auto")
        own = f"per, {self.per!r}, for select pivoted, whose scores are of the tokens it chooses among"
        _check("scope", self.scope == self.per, own, self.scope)

    def _check_left_out(self, expected: str, **defaults: object) -> None:
        for name, default in defaults.items():
            given = getattr(self, name)
            _check(name, given == default, expected, given)

    @property
    def counts_are_fixed(self) -> bool:
        """Whether how many tokens are kept follows from their number alone."""
        return self.coverage is None and LEVELS.index(self.per) <= LEVELS.index(self.scope)

    def check_traced(self) -> None:
        """Refuses a budget that depends on the scores: a graph has to know how many are kept.

        Raises:
            ValueError: It does.
        """
        if not self.counts_are_fixed:
            raise ValueError(
                "svdprune_ext: where a prompt is compiled or captured, coverage must be None and per no "
                "larger than scope, for the graph to know how many tokens are kept, got "
                f"coverage={self.coverage}, per={self.per!r}, scope={self.scope!r}"
            )


def _check(name: str, right: bool, expected: str, got: object) -> None:
    if not right:
        raise ValueError(f"apply: {name} must be {expected}, got {got!r}")
