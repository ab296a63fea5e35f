"""What pruning does to a tiny VLM's answers, in the documents: from results of ``svdprune eval``."""

from __future__ import annotations

from typing import Any

from svdprune_ext.evaluation import markdown

_AT = (32, 16)  # the budgets that the sentences are about
_LEGEND = (
    "In brackets 95 % intervals. \\* better and ° worse than SVD leverage with as many tokens, beyond "
    "chance: the interval of the difference, image by image, leaves out 0."
)
_TITLES = {"compositional": "Compositional questions", "reading": "Reading"}


def overview(summary: dict[str, Any], image: str | None) -> str:
    """The Markdown of the preset "methods" in short: plot, and a table at two budgets.

    Args:
        summary: Content of ``methods.json``.
        image: Address of the plot; None shows none.
    """
    lines = [markdown.heading(summary), "", markdown.whole_line(summary), ""]
    if image is not None:
        lines += [f"![Accuracy and energy over the number of tokens kept]({image})", ""]
    lines += [*_header(), *_series(summary["rows"]), "", _LEGEND]
    return "\n".join(lines)


def methods(summary: dict[str, Any]) -> str:
    """The Markdown of the preset "methods": tables of all budgets, wins and losses, energy.

    Args:
        summary: Content of ``methods.json``.
    """
    lines = [markdown.heading(summary), "", markdown.whole_line(summary)]
    (group,) = markdown.groups(summary)
    for measure, title in _TITLES.items():
        lines += ["", f"{title}:", "", markdown.wide_table(summary, group, measure)]
    lines += [
        "",
        _LEGEND,
        "",
        "Wins and losses of SVD leverage (all other pairs are within chance):",
        "",
    ]
    for measure, title in _TITLES.items():
        lines += [_wins_and_losses(summary["rows"], measure, title, keep) for keep in _AT]
    lines += ["", _energy(summary)]
    return "\n".join(lines)


def ablations(summary: dict[str, Any]) -> str:
    """The Markdown of the preset "ablations": a line for each group and what made a difference."""
    lines = ["What the paper leaves open, one thing changed at a time (same images):", ""]
    lines += _header()
    adaptive = []
    for group in markdown.groups(summary):
        rows = [row for row in summary["rows"] if row["group"] == group]
        if any(row["adaptive"] for row in rows):
            adaptive = rows
            continue
        lines += [_line([f"*{group}*", *[""] * len(_TITLES) * len(_AT)]), *_series(rows)]
    lines += ["", "Stars and circles as above: against the paper's setting with as many tokens."]
    if adaptive:
        lines += ["", _budgets(adaptive)]
    return "\n".join(lines)


def _header() -> list[str]:
    """The head of a table with a column for each kind of question and budget."""
    columns = [f"{title.split()[0].lower()}, {keep}" for title in _TITLES.values() for keep in _AT]
    return [_line(["", *columns]), _line(["---", *["---"] * len(columns)])]


def _series(rows: list[dict[str, Any]]) -> list[str]:
    """Its lines, one a series."""
    lines = []
    for series in dict.fromkeys(row["series"] for row in rows):
        by_keep = {row["keep"]: row for row in rows if row["series"] == series}
        cells = [_cell(by_keep.get(keep), measure) for measure in _TITLES for keep in _AT]
        lines.append(_line([series, *cells]))
    return lines


def _wins_and_losses(rows: list[dict[str, Any]], measure: str, title: str, keep: int) -> str:
    others = [row for row in rows if row["keep"] == keep and "less_reference" in row]
    ahead = [row for row in others if markdown.mark(row, measure) == " °"]
    behind = [row for row in others if markdown.mark(row, measure) == " *"]
    return (
        f"- {title}, {keep} tokens: ahead of {_names(ahead, measure)}; "
        f"behind {_names(behind, measure)}."
    )


def _names(rows: list[dict[str, Any]], measure: str) -> str:
    """Series with the distance from the reference, the farthest first."""
    far = sorted(rows, key=lambda row: -abs(row["less_reference"][measure][0]))
    named = [f"{row['series']} ({-row['less_reference'][measure][0]:+.2f})" for row in far]
    return ", ".join(named) or "none"


def _energy(summary: dict[str, Any]) -> str:
    """Who holds how much of the features' energy, in one sentence a budget."""
    parts = []
    for keep in _AT:
        rows = [r for r in summary["rows"] if r["keep"] == keep and r["energy"] is not None]
        ours = next((r for r in rows if r["series"] == summary["reference"]), None)
        if ours is None:
            continue
        most, least = (f(rows, key=lambda r: r["energy"]) for f in (max, min))
        place = 1 + sum(row["energy"] > ours["energy"] for row in rows)
        parts.append(
            f"with {keep} tokens SVD leverage {ours['energy']:.2f}, number {place} of {len(rows)} (most "
            f"{most['energy']:.2f}, {most['series']}; least {least['energy']:.2f}, {least['series']})"
        )
    return "Share of ‖X‖² in the span of the kept rows: " + "; ".join(parts) + "."


def _budgets(rows: list[dict[str, Any]]) -> str:
    """Adaptive budgets beside fixed ones of as many tokens."""
    lines = [
        "A budget that follows the image (the fewest tokens that hold a share of the leverage), and a fixed "
        "one of as many tokens on average:",
        "",
        _line(["", "tokens kept", "compositional", "reading"]),
        _line(["---", "---:", "---", "---"]),
    ]
    fixed = {row["keep"]: row for row in rows if not row["adaptive"]}
    for row in rows:
        if not row["adaptive"]:
            continue
        for each in (row, fixed.get(round(row["kept"]))):
            if each is not None:
                cells = [_cell(each, measure) for measure in _TITLES]
                lines.append(_line([each["series"], f"{each['kept']:.1f}", *cells]))
    return "\n".join(lines)


def _cell(row: dict[str, Any] | None, measure: str) -> str:
    if row is None:
        return ""
    return markdown.shown(row["accuracy"][measure]) + markdown.mark(row, measure)


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
