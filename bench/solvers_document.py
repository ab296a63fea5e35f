"""The study of the solvers as the README and its plot show it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.document import format_seconds, machine_line, markdown_table

KEEP = 32
SHOWN = 0.9  # the variance of the table
_LEGEND = (
    "Outcome: the certificate stopped the solver at a step, or it went to the end; where float32 might have "
    "missed the promise, the image was solved again in float64, and the outcome is of that. Gram and "
    'spectrum: these stages\' shares of the float32 solve by "tridiag".'
)
_TOWER = (
    "ViT: real photographs through a vision tower of CLIP ViT-L/14-336's shape with **random weights**, "
    "noise as a share of the features' size."
)
_THROUGH_TOWER = ", ViT"  # in the name of features that bench.photographs makes
TITLES = {
    "tridiag": '"tridiag"',
    "eigh": '"eigh"',
    "gram_eigh": "Gram + eigh",
    "svd": "SVD",
}
HEADER = [
    "tokens x width",
    "features",
    "rank",
    "outcome",
    TITLES["tridiag"],
    "Gram, spectrum",
    *(TITLES[name] for name in ("eigh", "gram_eigh", "svd")),
    "score error, allowed",
    f"of the top {KEEP}",
]


def cells(row: dict[str, Any]) -> list[str]:
    """Cells of one line under ``HEADER``; times with their ratio to the solver "tridiag"."""
    ours = row["seconds"]["tridiag"]
    error, allowed = row["errors"]["tridiag"], row["allowed"]["tridiag"]
    return [
        f"{row['tokens']} x {row['width']}",
        row["features"],
        str(row["rank"]),
        outcome(row),
        format_seconds(ours),
        _shares(row.get("stages")),
        *(
            f"{format_seconds(row['seconds'][name])} ({row['seconds'][name] / ours:.1f}x)"
            for name in ("eigh", "gram_eigh", "svd")
        ),
        "undefined" if error is None else f"{error:.0e}, {allowed:.0e}",
        f"{row['common']['tridiag']} of {row['keep']}",
    ]


def outcome(row: dict[str, Any]) -> str:
    """What became of the early stop."""
    if row["solver"] != "tridiag":
        return f'"{row["solver"]}" took over'
    early = row["steps"] < row["size"]
    steps = f"stop at {row['steps']} of {row['size']}" if early else f"all {row['size']}"
    return steps + (", again in float64" if row.get("refined") else "")


def _shares(stages: dict[str, float] | None) -> str:
    if not stages:
        return "-"
    total = sum(stages.values())
    return ", ".join(f"{100 * stages[stage] / total:.0f}%" for stage in ("gram", "spectrum"))


def worst(rows: list[dict[str, Any]], name: str) -> tuple[float, dict[str, Any]] | None:
    """The largest score error of a candidate over what is allowed.

    Args:
        rows: Of the study.
        name: The candidate.

    Returns:
        The ratio and its row; None where no row has one.
    """
    ratios = [
        (row["errors"][name] / row["allowed"][name], row)
        for row in rows
        if row["errors"][name] is not None
    ]
    return max(ratios, key=lambda pair: pair[0], default=None)


def summary(rows: list[dict[str, Any]]) -> str:
    """Accuracy over all rows, in words.

    Args:
        rows: Of the study.

    Returns:
        Sentences, without a line break.
    """
    variances = ", ".join(f"{v:g}" for v in sorted({row["variance"] for row in rows}))
    parts, wrong = [], []
    for name, title in TITLES.items():
        wrong.append(str(sum(row["ranks"][name] != row["rank"] for row in rows)))
        found = worst(rows, name)
        if found is not None:
            ratio, row = found
            parts.append(f"{title} {ratio:.2g} ({row['features']}, at {row['variance']:g})")
    return (
        f"Over all features and the variances {variances}, the largest score error as a share of the "
        f"max(2e-4, 3e-9 / gap) that the default solver promises: {', '.join(parts)}. Ranks that differ "
        f"from the oracle's, in the same order: {', '.join(wrong)} of {len(rows)}."
    )


def tables(result: dict[str, Any], image: str | None) -> str:
    """The study in Markdown: the rows of one variance, a sentence over all of them, the plot.

    Args:
        result: Content of a file that this benchmark wrote.
        image: Address of the plot; None where there is none.

    Returns:
        Text without a line break at its end.
    """
    shown = [row for row in result["solvers"] if row["variance"] == SHOWN]
    legend = [f"The table is at variance {SHOWN:g}. {_LEGEND}"]
    if any(_THROUGH_TOWER in row["features"] for row in shown):
        legend.append(_TOWER)
    blocks = [
        machine_line(result["machine"]),
        markdown_table(HEADER, map(cells, shown), left=("features",)),
        " ".join([*legend, summary(result["solvers"])]),
    ]
    if image is not None:
        blocks.append(f"![Steps and time of the solvers over the rank]({image})")
    return "\n\n".join(blocks)


def _ring(axes: Any, points: list[tuple[float, float]], label: str) -> None:
    if points:
        style = {"s": 110, "facecolors": "none", "edgecolors": "black", "linewidths": 0.8}
        axes.scatter(*zip(*points, strict=True), **style, label=label)


def plot(result: dict[str, Any], path: Path) -> None:
    """Draws steps over rank, and time over rank for both solvers.

    Args:
        result: Machine and rows.
        path: PNG to write.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    rows = result["solvers"]
    # One size a plot: time over rank means nothing across sizes.
    size = min(row["size"] for row in rows)
    rows = sorted((row for row in rows if row["size"] == size), key=lambda row: row["rank"])
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    stopped = [row for row in rows if row["solver"] == "tridiag" and row["steps"] < size]
    for label, marker, some in (
        ("stopped early", "o", stopped),
        ("went to the end", "s", [row for row in rows if row not in stopped]),
    ):
        ranks, steps = [row["rank"] for row in some], [row["steps"] for row in some]
        left.scatter(ranks, steps, marker=marker, s=28, alpha=0.8, label=label)
    left.axhline(size, color="gray", linestyle="--", linewidth=1, label=f"all {size} steps")
    left.set(title='Steps that "tridiag" takes', ylabel="steps", ylim=(0, 1.06 * size))
    ranks = [row["rank"] for row in rows]
    for name, marker in (("tridiag", "o"), ("eigh", "^")):
        times = [1e3 * row["seconds"][name] for row in rows]
        right.scatter(ranks, times, marker=marker, s=28, alpha=0.8, label=TITLES[name])
    seen = [row for row in rows if _THROUGH_TOWER in row["features"]]
    _ring(left, [(row["rank"], row["steps"]) for row in seen], "photograph through a random ViT")
    refined = [(r["rank"], 1e3 * r["seconds"]["tridiag"]) for r in rows if r["refined"]]
    _ring(right, refined, '"tridiag", again in float64')
    right.set(title="Time of one image", ylabel="milliseconds, median")
    right.set_ylim(bottom=0)
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_xlabel("rank: leading directions that hold the asked share of the energy")
        axes.grid(alpha=0.3)
        axes.legend()
    first = rows[0]
    shape = f"{first['tokens']} tokens of width {first['width']}"
    figure.suptitle(f"{shape}: {machine_line(result['machine'])}", fontsize=9)
    figure.savefig(path, dpi=130)
    plt.close(figure)
