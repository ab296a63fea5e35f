"""The summary as a picture: accuracy and energy over the number of tokens kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from svdprune_ext.evaluation.markdown import groups
from svdprune_ext.evaluation.presets import PAPER

_INK = "#22313f"
_REFERENCE = "#d1495b"
_PANELS = (
    ("compositional", "compositional accuracy"),
    ("reading", "reading accuracy"),
    ("energy", "energy in the span of the kept rows"),
)
_MARKERS = "osD^vP*Xph<>"


def draw(summary: dict[str, Any], path: Path) -> None:
    """Writes the picture: a line of panels for each group.

    Args:
        summary: As ``summary.summarise`` returns it.
        path: PNG file to write.
    """
    names = groups(summary)
    layout = ConstrainedLayoutEngine(h_pad=0.1, w_pad=0.1)
    figure = Figure((16, 4.7 * len(names)), dpi=100, facecolor="white", layout=layout)
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(names), len(_PANELS), squeeze=False)
    for line, group in zip(axes, names, strict=True):
        rows = [row for row in summary["rows"] if row["group"] == group]
        for axis, (measure, label) in zip(line, _PANELS, strict=True):
            _panel(axis, rows, summary, measure)
            axis.set_ylabel(label, color=_INK)
        line[0].set_title(group, loc="left", color=_INK, fontsize=12, fontweight="bold")
        line[-1].legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=9, frameon=False)
    figure.savefig(path)


def _panel(axis: Any, rows: list[dict[str, Any]], summary: dict[str, Any], measure: str) -> None:
    if measure != "energy":
        whole = summary["unpruned"]["accuracy"][measure][0]
        if whole is not None:
            axis.axhline(whole, color=_INK, linestyle=":", linewidth=1.2, label="all tokens")
    others = 0
    for name in dict.fromkeys(row["series"] for row in rows):
        points = sorted(
            (r for r in rows if r["series"] == name), key=lambda r: r["kept"] or r["keep"]
        )
        points = [row for row in points if _interval(row, measure)[0] is not None]
        style = {"color": _REFERENCE, "linewidth": 2.6, "marker": "o", "zorder": 3}
        if name not in (summary["reference"], PAPER):
            style = {"color": f"C{others % 10}", "marker": _MARKERS[others % len(_MARKERS)]}
            others += 1
        tokens = [row["kept"] or row["keep"] for row in points]
        intervals = [_interval(row, measure) for row in points]
        error = [[v - low for v, low, _ in intervals], [high - v for v, _, high in intervals]]
        axis.errorbar(tokens, [v for v, _, _ in intervals], error, label=name, capsize=2, **style)
    axis.set_xscale("log", base=2)
    ticks = sorted({row["keep"] for row in rows if not row["adaptive"]})
    axis.set_xticks(ticks, [str(tick) for tick in ticks])
    axis.set_ylim(-0.02, 1.02)
    axis.set_xlabel("vision tokens kept (log scale)", color=_INK)
    axis.grid(alpha=0.25)


def _interval(row: dict[str, Any], measure: str) -> list[float]:
    if measure == "energy":
        return [row["energy"]] * 3
    interval: list[float] = row["accuracy"][measure]
    return interval
