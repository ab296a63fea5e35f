"""The summary in Markdown."""

from __future__ import annotations

from typing import Any

from svdprune_ext.tiny_vlm.questions import KINDS


def document(summary: dict[str, Any]) -> str:
    """The whole page: what was asked, a table of accuracies for each group, then by kind of question."""
    lines = [
        f"# Accuracy by budget: {summary['preset']}",
        "",
        heading(summary),
        "",
        whole_line(summary),
    ]
    for group in groups(summary):
        lines += ["", f"## {group[:1].upper()}{group[1:]}"]
        for name, measure in (
            ("Compositional (mean of the kinds)", "compositional"),
            ("Reading", "reading"),
        ):
            lines += ["", f"### {name}", "", wide_table(summary, group, measure)]
        lines += ["", "### Energy: share of ‖X‖² in the span of the kept rows", ""]
        lines += [energy_table(summary, group)]
    lines += ["", "## By kind of question", "", kinds_table(summary), ""]
    return "\n".join(lines)


def heading(summary: dict[str, Any]) -> str:
    """One paragraph: model, questions, intervals, versions."""
    return (
        f"{summary['model_name']}, {summary['dtype']} on {summary['device']}; {summary['images']} images of "
        f"the {summary['split']} split, {sum(summary['questions'].values())} questions. Intervals are "
        f"{summary['intervals']}. svdprune_ext {summary['svdprune_ext']}, torch {summary['torch']}, "
        f"transformers {summary['transformers']}; {summary['date']}."
    )


def whole_line(summary: dict[str, Any]) -> str:
    """What the model answers with all its tokens."""
    accuracy = summary["unpruned"]["accuracy"]
    return (
        f"With all {summary['unpruned']['kept']:g} tokens: compositional {shown(accuracy['compositional'])}, "
        f"reading {shown(accuracy['reading'])}."
    )


def groups(summary: dict[str, Any]) -> list[str]:
    """The groups in order."""
    return list(dict.fromkeys(row["group"] for row in summary["rows"]))


def shown(interval: list[float | None]) -> str:
    """``0.81 (0.79-0.83)``; a dash for what is not defined."""
    value, low, high = interval
    return "-" if value is None else f"{value:.2f} ({low:.2f}-{high:.2f})"


def wide_table(summary: dict[str, Any], group: str, measure: str) -> str:
    """A line for each series of a group, a column for each budget.

    A star marks what is better than the reference at the same budget, a circle what is worse: the interval
    of the difference leaves out 0.
    """
    return _by_budget(
        summary, group, lambda row: shown(row["accuracy"][measure]) + mark(row, measure)
    )


def energy_table(summary: dict[str, Any], group: str) -> str:
    """The same of the energy."""
    return _by_budget(summary, group, lambda row: _number(row["energy"]))


def mark(row: dict[str, Any], measure: str) -> str:
    """`` *`` where a row is better than the reference beyond chance, `` °`` where it is worse."""
    apart = row.get("less_reference", {}).get(measure)
    if apart is None or apart[0] is None:
        return ""
    return " *" if apart[1] > 0 else " °" if apart[2] < 0 else ""


def kinds_table(summary: dict[str, Any]) -> str:
    """A line for each row of the summary, a column for each kind."""
    lines = [_line(["", "tokens kept", *KINDS]), _line(["---", *["---:"] * (len(KINDS) + 1)])]
    all_rows = [{**summary["unpruned"], "series": "all tokens"}, *summary["rows"]]
    for row in all_rows:
        shares = [row["accuracy"][kind][0] for kind in KINDS]
        lines.append(_line([row["series"], _tokens(row), *(_number(share) for share in shares)]))
    return "\n".join(dict.fromkeys(lines))  # the reference stands in several groups


def _by_budget(summary: dict[str, Any], group: str, cell: Any) -> str:
    rows = [row for row in summary["rows"] if row["group"] == group]
    if any(row["adaptive"] for row in rows):
        lines = [_line(["", "tokens kept", ""]), _line(["---", "---:", "---"])]
        return "\n".join(
            [*lines, *(_line([row["series"], _tokens(row), cell(row)]) for row in rows)]
        )
    budgets = sorted({row["keep"] for row in rows}, reverse=True)
    lines = [_line(["tokens kept", *map(str, budgets)]), _line(["---", *["---"] * len(budgets)])]
    for series in dict.fromkeys(row["series"] for row in rows):
        cells = {row["keep"]: cell(row) for row in rows if row["series"] == series}
        lines.append(_line([series, *(cells.get(budget, "") for budget in budgets)]))
    return "\n".join(lines)


def _tokens(row: dict[str, Any]) -> str:
    kept = row["kept"]
    return str(row["keep"]) if kept is None else f"{kept:.1f}".removesuffix(".0")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
