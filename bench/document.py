"""The JSON that a benchmark run leaves: the machine, then rows, with medians in seconds."""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Iterable, Sequence
from pathlib import Path
from typing import Any

SINGLY = "svdprune_singly"  # a batch's images in a call each: batches only
CANDIDATES = ("svdprune", SINGLY, "svdprune_eigh", "svdprune_pivoted", "gram_eigh", "svd")
STAGES = ("gram", "spectrum", "leverage", "select", "gather")


def rows_of(benchmarks: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Gathers pytest-benchmark's entries into rows: one a case, a column a competitor or stage.

    Args:
        benchmarks: The ``benchmarks`` list of pytest-benchmark's JSON.

    Returns:
        ``{"prune": rows, "stages": rows}``; each row describes its case and holds ``seconds`` and
        ``rounds`` by column.
    """
    tables: dict[str, dict[str, dict[str, Any]]] = {"prune": {}, "stages": {}}
    for entry in benchmarks:
        info = dict(entry["extra_info"])
        table, column = info.pop("table"), info.pop("column")
        row = tables[table].setdefault(entry["group"], {**info, "seconds": {}, "rounds": {}})
        row["seconds"][column] = entry["stats"]["median"]
        row["rounds"][column] = entry["stats"]["rounds"]
    return {table: list(rows.values()) for table, rows in tables.items()}


def write(result: dict[str, Any], path: Path) -> None:
    """Writes a result as JSON; makes the folder where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n")


def format_seconds(seconds: float | None, digits: int = 3) -> str:
    """So many digits, in the unit that suits; a dash for None."""
    if seconds is None:
        return "-"
    for unit, scale in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if seconds * scale >= 0.9995:
            return f"{seconds * scale:.{digits}g} {unit}"
    return f"{seconds * 1e9:.{digits}g} ns"


PRUNE_HEADER = [
    "images x tokens x width",
    "features",
    "rank",
    "svdprune",
    "one image a call",
    'its solver "eigh"',
    'its select "pivoted"',
    "Gram + eigh",
    "SVD",
]
STAGE_HEADER = ["tokens x width", "features", *STAGES, "sum"]


def prune_cells(row: dict[str, Any]) -> list[str]:
    """Cells of one line under ``PRUNE_HEADER``; competitors with their ratio to the operator."""
    ours = row["seconds"].get("svdprune")
    return [
        f"{row['images']} x {row['tokens']} x {row['width']}",
        row["spectrum"],
        f"{row['rank']:.0f}",
        format_seconds(ours),
        *(_compared(row["seconds"].get(name), ours) for name in CANDIDATES[1:]),
    ]


def stage_cells(row: dict[str, Any]) -> list[str]:
    """Cells of one line under ``STAGE_HEADER``; stages with their share of the sum."""
    total = sum(row["seconds"].values())
    return [
        f"{row['tokens']} x {row['width']}",
        row["spectrum"],
        *(_shared(row["seconds"].get(stage), total) for stage in STAGES),
        format_seconds(total),
    ]


def table(
    result: dict[str, Any],
    name: str,
    header: list[str],
    cells: Callable[[dict[str, Any]], list[str]],
) -> str:
    """The machine, and one of a result's tables in Markdown, its rows' cells under the header."""
    rows = markdown_table(header, map(cells, result[name]), left=("features",))
    return f"{machine_line(result['machine'])}\n\n{rows}"


def markdown_table(
    header: Sequence[str], rows: Iterable[Sequence[str]], left: Container[str] = ()
) -> str:
    """A table in Markdown, its columns aligned to the right but for those named in ``left``."""
    align = ["---" if column in left else "---:" for column in header]
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, align, *rows))


def machine_line(machine: dict[str, Any]) -> str:
    """One line: what the numbers hold for."""
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads; "
        f"torch {machine['torch']}; svdprune_ext {machine['svdprune']} "
        f"({machine['revision']}); {machine['date']}"
    )


def _shared(seconds: float | None, total: float) -> str:
    return f"{format_seconds(seconds)} ({100 * seconds / total:.0f}%)" if seconds else "-"


def _compared(seconds: float | None, ours: float | None) -> str:
    ratio = f" ({seconds / ours:.1f}x)" if seconds and ours else ""
    return format_seconds(seconds) + ratio
