"""What rank do the vision features of your model have, and what does that cost?

``python -m bench.spectra MODEL IMAGE...`` in the source folder: MODEL is the folder or hub id of a LLaVA
checkpoint, IMAGE an image file. For each share of the energy it prints the rank of the features that the
projector would get, the steps that the default solver takes for it, and its time for one image on the CPU.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import quantiles
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from bench.document import format_seconds, machine_line
from bench.timing import describe_machine, interleaved, median
from svdprune_ext.demo.bundle import Bundle
from svdprune_ext.demo.checkpoint import load_checkpoint
from svdprune_ext.demo.photo import load_photo
from svdprune_ext.demo.settings import Settings, SettingsError
from svdprune_ext.ops import diagnose, leverage_scores

VARIANCES = (0.8, 0.85, 0.9, 0.95, 0.99)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: Command line; the process's own by default.

    Returns:
        Exit status: 0, or 2 where the model or an image cannot be loaded.
    """
    parser = argparse.ArgumentParser(prog="bench.spectra", description=__doc__)
    parser.add_argument("model", metavar="MODEL", help="folder or hub id of a LLaVA checkpoint")
    parser.add_argument("images", metavar="IMAGE", type=Path, nargs="+", help="image files")
    options = parser.parse_args(arguments)

    console = Console(markup=False, highlight=False)
    try:
        photos = [load_photo(path)[0] for path in options.images]
        bundle = load_checkpoint(Settings(model=options.model, keep=1))
    except SettingsError as error:
        message = str(error).replace("PHOTO:", "IMAGE:").replace("--model:", "MODEL:")
        print(f"bench.spectra: {message}", file=sys.stderr)
        return 2
    images = [
        features(bundle, photo)
        for photo in track(photos, "Vision tower", console=console, transient=True)
    ]
    rows = study(images)
    console.print(machine_line(describe_machine()))
    console.print(table(rows, f"{bundle.name}: {_shapes(images)}"))
    return 0


@torch.inference_mode()
def features(bundle: Bundle, photo: Any) -> Tensor:
    """What the projector gets for an image.

    Args:
        bundle: A LLaVA model and its processor.
        photo: A PIL image.

    Returns:
        Features [N, D] on the CPU, in the model's dtype.
    """
    model = bundle.model
    caught: list[Tensor] = []
    hook = model.model.multi_modal_projector.register_forward_pre_hook(
        lambda _, arguments: caught.append(arguments[0])
    )
    try:
        pixels = bundle.processor.image_processor(images=[photo], return_tensors="pt")
        model.get_image_features(
            pixel_values=pixels["pixel_values"].to(model.device, dtype=model.dtype)
        )
    finally:
        hook.remove()
    return caught[0][0].cpu()


def study(
    images: Sequence[Tensor], variances: Sequence[float] = VARIANCES, budget: float = 0.2
) -> list[dict[str, Any]]:
    """Ranks, steps and time at every variance.

    Args:
        images: Features [N, D] of each image.
        variances: Shares of the energy to ask for.
        budget: Seconds that an image may be timed for at one variance.

    Returns:
        A row for each variance; ``ranks``, ``steps``, ``sizes``, ``solvers`` and ``seconds`` (median of the
        rounds) by image.
    """
    return [{"variance": variance, **_study_at(variance, images, budget)} for variance in variances]


def _study_at(variance: float, images: Sequence[Tensor], budget: float) -> dict[str, list[Any]]:
    found = [diagnose(x, variance=variance) for x in images]

    def score(x: Tensor) -> Callable[[], object]:
        return lambda: leverage_scores(x, variance=variance)

    durations = interleaved(
        {str(index): score(x) for index, x in enumerate(images)}, budget=budget, max_rounds=20
    )
    return {
        "ranks": [int(one.rank) for one in found],
        "steps": [int(one.steps) for one in found],
        "sizes": [int(one.size) for one in found],
        "solvers": [one.solver[0] for one in found],
        "seconds": [median(times) for times in durations.values()],
    }


def table(rows: Sequence[dict[str, Any]], title: str) -> Table:
    """The rows as a table; over several images least, quartiles and most.

    Args:
        rows: Of ``study``.
        title: Its title.

    Returns:
        The table.
    """
    spread = "least / quarter / median / three quarters / most"
    result = Table(title=title, caption=f"over {len(rows[0]['ranks'])} images: {spread}")
    for column in ("variance", "rank", "steps", "of", "went to the end", "time, median"):
        result.add_column(column, justify="right")
    for row in rows:
        to_the_end = sum(s == n for s, n in zip(row["steps"], row["sizes"], strict=True))
        result.add_row(
            f"{row['variance']:g}",
            _spread(row["ranks"]),
            _spread(row["steps"]),
            _spread(row["sizes"]),
            f"{to_the_end} of {len(row['sizes'])}",
            format_seconds(median(row["seconds"])),
        )
    return result


def _spread(values: Sequence[int]) -> str:
    least, most = min(values), max(values)
    if least == most:
        return str(least)
    inner = quantiles(values, n=4, method="inclusive")
    return " / ".join(f"{value:.0f}" for value in (least, *inner, most))


def _shapes(images: Sequence[Tensor]) -> str:
    shapes = sorted({tuple(x.shape) for x in images})
    return ", ".join(f"{tokens} tokens of width {width}" for tokens, width in shapes)


if __name__ == "__main__":
    sys.exit(main())
