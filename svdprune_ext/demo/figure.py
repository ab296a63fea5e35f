"""The demonstration's picture: photograph, kept patches, scores and spectrum."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter

from svdprune_ext.demo.result import Result

_INK = "#22313f"
_ACCENT = "#d1495b"
_LINE = "#2e6f95"
_DIMMED = 0.35
_HEIGHT = 11.9  # inches, without a table of answers


def draw(result: Result, processor: Any, path: Path) -> None:
    """Writes the picture.

    Args:
        result: The demonstration's result.
        processor: The model's processor: its image steps are taken back for the photograph.
        path: PNG file to write.
    """
    photo = seen_by_model(result, processor)
    layout = ConstrainedLayoutEngine(h_pad=0.12, w_pad=0.12)
    figure = Figure(figsize=(12.6, _HEIGHT), dpi=110, facecolor="white", layout=layout)
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 2)
    counts = f"{len(result.indices)} of {result.num_tokens} vision tokens"
    rule = "Pivoted rows" if result.settings.pivoted else "SVD-Prune"
    title = f'{rule} (select "{result.settings.select}"): {counts} kept'
    figure.suptitle(title, fontsize=19, fontweight="bold", color=_INK)
    if result.asked:
        figure.set_figheight(_HEIGHT + 0.2 * len(result.asked))
        figure.supxlabel(_answers(result), fontsize=11, color=_INK, fontfamily="monospace")
    _draw_photo(axes[0, 0], photo, "The picture, as the model sees it")
    _draw_photo(axes[0, 1], _dim(photo, result), f"The {len(result.indices)} kept patches")
    _outline(axes[0, 1], photo.shape[0], result)
    _draw_scores(figure, axes[1, 0], result)
    _draw_spectrum(axes[1, 1], result)
    figure.savefig(path)


def _answers(result: Result) -> str:
    """A table of the questions, with the right answers and those of both runs."""
    lines: list[tuple[str, ...]] = [
        ("question", "right answer", f"all {result.num_tokens}", f"{len(result.indices)} kept")
    ]
    for each in result.asked:
        right = each.question.answer
        given = (f if f == right else f"{f} (wrong)" for f in (each.full, each.pruned))
        lines.append((each.question.text, right, *given))
    widths = [max(map(len, column)) + 3 for column in zip(*lines, strict=True)]
    return "\n".join(
        "".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        for line in lines
    )


def seen_by_model(result: Result, processor: Any) -> Any:
    """The vision tower's input as a picture.

    Args:
        result: The demonstration's result.
        processor: The model's processor, for mean and standard deviation of the colours.

    Returns:
        Pixels in [0, 1], [height, width, 3].
    """
    image = processor.image_processor
    pixels = result.full.pixels.float().cpu() * torch.tensor(image.image_std)[:, None, None]
    pixels = pixels + torch.tensor(image.image_mean)[:, None, None]
    return pixels.clamp(0, 1).permute(1, 2, 0).numpy()


def _draw_photo(axis: Any, photo: Any, title: str) -> None:
    axis.imshow(photo)
    _title(axis, title)
    axis.set_xticks([])
    axis.set_yticks([])


def _dim(photo: Any, result: Result) -> Any:
    # Dropped patches in dark grey, so that the kept ones stand out by colour too.
    patch = photo.shape[0] // result.grid
    shown = np.repeat(_DIMMED * photo.mean(axis=-1, keepdims=True), 3, axis=-1)
    for row, column in result.kept_cells():
        rows = slice(row * patch, (row + 1) * patch)
        columns = slice(column * patch, (column + 1) * patch)
        shown[rows, columns] = photo[rows, columns]
    return shown


def _outline(axis: Any, side: int, result: Result) -> None:
    patch = side // result.grid
    for row, column in result.kept_cells():
        left, top = column * patch - 0.5, row * patch - 0.5
        right, bottom = left + patch, top + patch
        axis.plot(
            [left, right, right, left, left],
            [top, top, bottom, bottom, top],
            color="white",
            linewidth=1.1,
        )


def _draw_scores(figure: Figure, axis: Any, result: Result) -> None:
    scores = result.scores[result.first_patch :].float().reshape(result.grid, result.grid).numpy()
    highest = max(float(scores.max()), 1e-12)
    # Scores span decades: the floor is where a map would be noise to the eye.
    lowest = max(float(np.quantile(scores, 0.02)), highest * 1e-4)
    shown = axis.imshow(
        np.maximum(scores, lowest),
        cmap="magma",
        norm=LogNorm(lowest, highest) if lowest < highest else None,
    )
    bar = figure.colorbar(shown, ax=axis, fraction=0.046, pad=0.02)
    pivoted = result.settings.pivoted
    score = "share of the energy that it added" if pivoted else "leverage"
    bar.set_label(f"{score} (log scale)", color=_INK)
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.2g}"))
    bar.ax.yaxis.set_minor_formatter(FuncFormatter(_sparse_label))
    axis.scatter(
        [column for _, column in result.kept_cells()],
        [row for row, _ in result.kept_cells()],
        s=34,
        facecolors="none",
        edgecolors="#5ad1ff",
        linewidths=1.3,
        label="kept",
    )
    axis.legend(loc="lower right", framealpha=0.85, fontsize=10)
    if pivoted:
        _title(axis, f"What each pick added (sum = {100 * float(result.scores.sum()):.1f} %)")
    else:
        _title(axis, f"Leverage of each patch (sum = rank {result.agreement.rank})")
    ticks = sorted({0, result.grid // 2, result.grid - 1})
    axis.set_xticks(ticks)
    axis.set_yticks(ticks)


def _sparse_label(value: float, _: int) -> str:
    """Labels 2 and 5 of a decade only."""
    return f"{value:.2g}" if f"{value:.0e}"[0] in "25" else ""


def _draw_spectrum(axis: Any, result: Result) -> None:
    energy = result.agreement.energy.clamp_min(0)
    values = energy.sqrt()
    shown = values > float(values[0]) * 1e-6
    count = max(int(shown.sum()), 1)
    rank = result.agreement.rank
    index = np.arange(1, count + 1)

    axis.plot(index, values[:count].numpy(), color=_LINE, linewidth=2.2)
    axis.fill_between(index[:rank], values[:rank].numpy(), color=_LINE, alpha=0.18)
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel("direction j", color=_INK)
    axis.set_ylabel("singular value over the largest (log scale)", color=_LINE)
    axis.tick_params(axis="y", colors=_LINE)
    axis.grid(alpha=0.25, which="major")
    axis.axvline(max(rank, 1), color=_INK, linestyle="--", linewidth=1.5)

    share = axis.twinx()
    cumulative = (energy.cumsum(0) / energy.sum()).numpy()[:count]
    share.plot(index, 100 * cumulative, color=_ACCENT, linewidth=2.2)
    share.set_ylim(0, 104)
    share.set_ylabel("cumulative energy, %", color=_ACCENT)
    share.tick_params(axis="y", colors=_ACCENT)
    held = 100 * float(cumulative[rank - 1]) if rank else 0.0
    if result.settings.pivoted:
        second = f"{rank} picks: {100 * float(result.scores.sum()):.1f} %"
    else:
        asked = 100 * result.settings.energy_asked
        share.axhline(asked, color=_ACCENT, linestyle=":", linewidth=1.3)
        second = f"(asked: {asked:g} %)"
    share.annotate(
        f"rank {rank}: {held:.1f} % of the energy\n{second}",
        xy=(max(rank, 1), held),
        xytext=(14, -58) if rank < count / 4 else (-190, -58),
        textcoords="offset points",
        color=_INK,
        fontsize=12,
        arrowprops={"arrowstyle": "->", "color": _INK},
        bbox={"boxstyle": "round,pad=0.35", "facecolor": "white", "edgecolor": "#c9d1d9"},
    )
    _title(axis, "Singular values of the features")


def _title(axis: Any, title: str) -> None:
    axis.set_title(title, fontsize=14, color=_INK, pad=10)
