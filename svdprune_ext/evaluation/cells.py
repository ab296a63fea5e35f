"""What is evaluated: a cell is one way of pruning at one budget, a series the same way at several."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Cell:
    """One way of pruning at one budget.

    Attributes:
        keep: ``apply``'s argument, but for a method that has ``tokens`` in place of it; None leaves the model
            as it is.
        arguments: Further arguments of ``apply``, in types that JSON knows. An int ``options["seed"]``
            seeds a generator that draws for each image anew.
        scored_layer: Vision layer, as ``vision_feature_layer`` counts, whose features say which tokens are
            kept; the rows kept are those of the model's own layer all the same. None scores the model's own.
    """

    keep: int | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    scored_layer: int | None = None

    def key(self) -> dict[str, Any]:
        """Everything about the cell that determines its answers, in types that JSON knows."""
        return {
            "keep": self.keep,
            "arguments": dict(self.arguments),
            "scored_layer": self.scored_layer,
        }


UNPRUNED = Cell()


@dataclass(frozen=True)
class Series:
    """One way of pruning at several budgets: a line of the table, a curve of the plot.

    Attributes:
        name: What the line is called.
        group: What it is compared under, a heading of the table.
        arguments: As of ``Cell``.
        scored_layer: As of ``Cell``.
        seeds: Seeds of a random method, whose answers are pooled; none for the others.
    """

    name: str
    group: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    scored_layer: int | None = None
    seeds: tuple[int, ...] = ()

    def cells(self, keep: int) -> list[Cell]:
        """The cells of one budget: one, or one for each seed."""
        if self.arguments.get("method") == "sparsevlm":
            return [Cell(keep, {**self.arguments, "tokens": [keep]})]
        if not self.seeds:
            return [Cell(keep, self.arguments, self.scored_layer)]
        options = dict(self.arguments.get("options", {}))
        return [
            Cell(keep, {**self.arguments, "options": {**options, "seed": seed}}, self.scored_layer)
            for seed in self.seeds
        ]

    @property
    def adaptive(self) -> bool:
        """Whether images keep different numbers of tokens."""
        return self.arguments.get("coverage") is not None

    def budgets_within(self, tokens: int, budgets: Iterable[int]) -> list[int]:
        """Those budgets that drop some of an image's tokens; an adaptive series has no other cap than all."""
        if self.adaptive:
            return [tokens]
        return [keep for keep in budgets if keep < tokens]
