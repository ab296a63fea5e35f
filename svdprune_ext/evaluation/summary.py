"""From records to rows: one for each budget of each series, with intervals and distance from a reference."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from statistics import fmean
from typing import Any

from svdprune_ext.evaluation.bootstrap import RESAMPLES, Bootstrap, Tally
from svdprune_ext.evaluation.cells import UNPRUNED, Cell, Series
from svdprune_ext.evaluation.presets import reference_of
from svdprune_ext.tiny_vlm.questions import KINDS

Find = Callable[[Cell], dict[str, Any] | None]

INTERVALS = (
    "95 %: Wilson for one kind of question, else percentiles of "
    f"{RESAMPLES} resamples of the images with all their questions"
)


def summarise(
    preset: str, planned: list[tuple[Series, int]], find: Find, around: dict[str, Any], model: str
) -> dict[str, Any]:
    """Gathers what an evaluation found.

    Args:
        preset: Its name.
        planned: Series and budgets, all finished.
        find: The record of a cell, or None.
        around: ``records.surroundings``.
        model: What to call the model.

    Returns:
        The content of the JSON file: surroundings, then ``unpruned`` and ``rows``.
    """
    bootstrap = Bootstrap(around["images"])
    reference = reference_of(preset)
    unpruned = _found(find, UNPRUNED)
    rows = []
    for series, keep in planned:
        records = [_found(find, cell) for cell in series.cells(keep)]
        kept = round(_mean(records, "kept") or keep) if series.adaptive else keep
        own = reference.cells(kept)
        same_budget = None if series.cells(keep) == own else find(own[0])
        rows.append(
            {
                "series": series.name,
                "group": series.group,
                "arguments": dict(series.arguments),
                "scored_layer": series.scored_layer,
                "adaptive": series.adaptive,
                "keep": keep,
                "seeds": list(series.seeds),
                **_row(records, bootstrap, same_budget),
            }
        )
    asked = unpruned["right"]
    return {
        "preset": preset,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "model_name": model,
        **around,
        "questions": {kind: len(asked[kind].replace("-", "")) for kind in KINDS},
        "intervals": INTERVALS,
        "reference": reference.name,
        "unpruned": _row([unpruned], bootstrap, None),
        "rows": rows,
    }


def _found(find: Find, cell: Cell) -> dict[str, Any]:
    record = find(cell)
    assert record is not None
    return record


def _row(
    records: list[dict[str, Any]], bootstrap: Bootstrap, same_budget: dict[str, Any] | None
) -> dict[str, Any]:
    """Accuracies of pooled records; and the distance from the reference at this budget, where given."""
    tally = Tally.of([record["right"] for record in records])
    row: dict[str, Any] = {
        name: _mean(records, name) for name in ("kept", "energy", "rank", "seconds")
    }
    row["accuracy"] = {k: v.to_json() for k, v in bootstrap.accuracy(tally).items()}
    if same_budget is not None:
        apart = bootstrap.difference(tally, Tally.of([same_budget["right"]]))
        row["less_reference"] = {k: v.to_json() for k, v in apart.items()}
    return row


def _mean(records: list[dict[str, Any]], name: str) -> float | None:
    values = [record[name] for record in records if record[name] is not None]
    return round(fmean(values), 5) if values else None
