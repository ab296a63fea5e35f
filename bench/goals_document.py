"""The goals as the README shows them: goal, what was reached, and the reason where it was missed."""

from __future__ import annotations

from collections.abc import Iterable
from math import inf
from typing import Any

from bench.document import SINGLY, STAGES, format_seconds, machine_line, markdown_table
from bench.goals import Goal

HEADER = (
    "images x tokens x width",
    "rank",
    "times as fast as",
    "goal",
    "reached",
    "if missed, why",
)
UNMEASURED = "not measured"
_OVER = {SINGLY: "one image a call", "gram_eigh": "Gram + eigh", "svd": "SVD"}


def table(result: dict[str, Any], goals: Iterable[Goal]) -> str:
    """The goals in Markdown, beside what one result reached.

    Args:
        result: Content of a file that ``svdprune bench --json`` wrote.
        goals: The goals.

    Returns:
        Text without a line break at its end.

    Raises:
        ValueError: A goal is missed, and its reason names a stage that was not measured.
    """
    left = ("times as fast as", "reached", "if missed, why")
    rows = markdown_table(HEADER, (cells(goal, result) for goal in goals), left)
    return f"{machine_line(result['machine'])}\n\n{rows}"


def cells(goal: Goal, result: dict[str, Any]) -> list[str]:
    """Cells of one goal under ``HEADER``."""
    row = _row_of(goal, result)
    reached = None if row is None else row["seconds"][goal.over] / row["seconds"]["svdprune"]
    return [
        f"{goal.images} x {goal.tokens} x {goal.width}",
        _ranks(goal.ranks),
        _OVER[goal.over],
        f"{goal.ratio:g}x",
        UNMEASURED if reached is None else ratio_verdict(reached, goal.ratio),
        _reason(goal, row, result) if row and reached and reached < goal.ratio else "",
    ]


def _row_of(goal: Goal, result: dict[str, Any]) -> dict[str, Any] | None:
    for row in result["prune"]:
        if goal.holds_for(row) and {goal.over, "svdprune"} <= row["seconds"].keys():
            return row
    return None


def ratio_verdict(reached: float, goal: float) -> str:
    """Whether a ratio is at least its goal, and the ratio."""
    # Two digits after the point where one would hide on which side of the goal it lies.
    text = f"{reached:.1f}" if abs(reached - goal) >= 0.1 else f"{reached:.2f}"
    return verdict(reached >= goal, f"{text}x")


def verdict(is_met: bool, reached: str) -> str:
    """Whether a goal is met, and what was reached."""
    return f"yes, {reached}" if is_met else f"**no**, {reached}"


def _ranks(ranks: tuple[float, float]) -> str:
    least, highest = ranks
    return f"at least {least:g}" if highest == inf else f"{least:g} to {highest:g}"


def _reason(goal: Goal, row: dict[str, Any], result: dict[str, Any]) -> str:
    facts = {"allowed": format_seconds(row["seconds"][goal.over] / goal.ratio)}
    for stages in result["stages"]:
        if all(stages[key] == row[key] for key in ("tokens", "width", "spectrum")):
            facts["sum"] = format_seconds(sum(stages["seconds"].values()))
            facts |= {stage: format_seconds(stages["seconds"].get(stage)) for stage in STAGES}
    try:
        return goal.reason.format(**facts)
    except KeyError as missing:
        raise ValueError(
            f"the goal on {goal.images} x {goal.tokens} x {goal.width} is missed, and its reason names "
            f"{missing}: measure that case's stages too (`svdprune bench`)"
        ) from None
