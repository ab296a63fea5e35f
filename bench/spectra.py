"""What rank do the vision features of your model have, and what does that cost?

``python -m bench.spectra MODEL IMAGE... [--json FILE]`` in the source folder: MODEL is the folder or hub id
of a Hugging Face VLM with ``get_image_features``, or of a vision tower such as CLIP's or SigLIP's; IMAGE an
image file. For each share of the energy it prints the rank of the features, the steps that the default solver
takes for it, and the time of one image on the CPU: measured at one share, and at all predicted from a
calibration on this machine (``bench.prediction``); where both stand they show how good the prediction is.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import quantiles
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from bench.document import format_seconds, machine_line, write
from bench.prediction import predict
from bench.timing import describe_machine, interleaved, median
from bench.vision_features import NoFeatures, VisionModel, load
from svdprune_ext.demo.photo import load_photo
from svdprune_ext.demo.settings import SettingsError
from svdprune_ext.ops import diagnose, leverage_scores

VARIANCES = (0.8, 0.85, 0.9, 0.95, 0.99)
TIMED = 0.9  # the share at which calls are timed; at the others their time is predicted alone
COLUMNS = ("variance", "rank", "steps", "of", "to the end", "again in float64")
TIMES = ("time, measured", "time, predicted")


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: Command line; the process's own by default.

    Returns:
        Exit status: 0, or 2 where the model or an image cannot be loaded.
    """
    parser = argparse.ArgumentParser(prog="bench.spectra", description=__doc__)
    parser.add_argument("model", metavar="MODEL", help="folder or hub id of a checkpoint")
    parser.add_argument("images", metavar="IMAGE", type=Path, nargs="+", help="image files")
    parser.add_argument("--json", type=Path, help="write machine and rows there")
    options = parser.parse_args(arguments)

    console = Console(markup=False, highlight=False)
    if not console.is_terminal:
        console.width = 180
    try:
        photos = [load_photo(path)[0] for path in options.images]
        vision = load(options.model)
        bar = track(photos, "Vision tower", console=console, transient=True)
        images = [x for photo in bar for x in vision.features(photo)]
    except (SettingsError, NoFeatures) as error:
        message = str(error).replace("PHOTO:", "IMAGE:")
        print(
            f"bench.spectra: {'MODEL: ' if isinstance(error, NoFeatures) else ''}{message}",
            file=sys.stderr,
        )
        return 2
    with console.status("Calibrating"):
        result = document(vision, images, options.images)
    _print(result, console)
    if options.json is not None:
        write(result, options.json)
        console.print(f"Written: {options.json}")
    return 0


def document(
    vision: VisionModel, images: Sequence[Tensor], files: Sequence[Path]
) -> dict[str, Any]:
    """The study with what it holds for, as JSON has it.

    Args:
        vision: The model.
        images: Features [N, D] of each image or tile.
        files: The image files.

    Returns:
        ``machine``, ``model``, ``features`` (in words), ``files``, ``shapes`` by image, ``dtype``, and the
        rows of ``study`` as ``spectra``.
    """
    return {
        "machine": describe_machine(),
        "model": Path(vision.name).name,
        "features": vision.source,
        "files": [file.name for file in files],
        "shapes": [list(x.shape) for x in images],
        "dtype": str(images[0].dtype).removeprefix("torch."),
        "spectra": study(images),
    }


def study(
    images: Sequence[Tensor],
    variances: Sequence[float] = VARIANCES,
    timed: float = TIMED,
    budget: float = 0.2,
) -> list[dict[str, Any]]:
    """Ranks, steps and time at every variance.

    Args:
        images: Features [N, D] of each image, of one dtype.
        variances: Shares of the energy to ask for.
        timed: The share at which calls are timed.
        budget: Seconds that an image may be timed for, and each spectrum of the calibrations.

    Returns:
        A row for each variance; ``ranks``, ``steps``, ``sizes``, ``solvers``, ``refined``, ``predicted`` by
        image (None where "tridiag" was not what ran), and ``seconds``, the median of the rounds by image,
        or None where none was timed.
    """
    predictions = {
        shape: predict(shape, images[0].dtype, budget)
        for shape in {(x.shape[0], x.shape[1]) for x in images}
    }
    rows = []
    for variance in variances:
        found = [diagnose(x, variance=variance) for x in images]
        rows.append(
            {
                "variance": variance,
                "ranks": [int(one.rank) for one in found],
                "steps": [int(one.steps) for one in found],
                "sizes": [int(one.size) for one in found],
                "solvers": [one.solver[0] for one in found],
                "refined": [bool(one.refined) for one in found],
                "predicted": [
                    predictions[x.shape[0], x.shape[1]].seconds(one)
                    for x, one in zip(images, found, strict=True)
                ],
                "seconds": _timed(images, variance, budget) if variance == timed else None,
            }
        )
    return rows


def _timed(images: Sequence[Tensor], variance: float, budget: float) -> list[float]:
    calls: dict[str, Callable[[], object]] = {
        str(index): partial(leverage_scores, x, variance=variance) for index, x in enumerate(images)
    }
    return [median(times) for times in interleaved(calls, budget=budget, max_rounds=20).values()]


def cells(row: dict[str, Any]) -> list[str]:
    """Cells of one line under ``COLUMNS`` and ``TIMES``; over several images least, quartiles and most."""
    predicted = [seconds for seconds in row["predicted"] if seconds is not None]
    images = len(row["ranks"])
    to_the_end = sum(s == n for s, n in zip(row["steps"], row["sizes"], strict=True))
    return [
        f"{row['variance']:g}",
        _spread(row["ranks"]),
        _spread(row["steps"]),
        _spread(row["sizes"]),
        f"{to_the_end} of {images}",
        f"{sum(row['refined'])} of {images}",
        format_seconds(median(row["seconds"]) if row["seconds"] else None),
        format_seconds(median(predicted) if predicted else None),
    ]


def _print(result: dict[str, Any], console: Console) -> None:
    shapes = ", ".join(f"{n} x {d}" for n, d in sorted({tuple(s) for s in result["shapes"]}))
    table = Table(
        title=f"{result['model']}: {shapes}, {result['dtype']}, {result['features']}",
        caption=(
            f"{len(result['files'])} images, {len(result['shapes'])} feature matrices: least / quarter / "
            f"median / three quarters / most. Times are medians over them. Measured: the operator on these "
            f"features. Predicted: from made features of the same shape, timed on this machine."
        ),
    )
    for column in (*COLUMNS, *TIMES):
        table.add_column(column, justify="right")
    for row in result["spectra"]:
        table.add_row(*cells(row))
    console.print(machine_line(result["machine"]))
    console.print(table)


def _spread(values: Sequence[int]) -> str:
    least, most = min(values), max(values)
    if least == most:
        return str(least)
    inner = quantiles(values, n=4, method="inclusive")
    return " / ".join(f"{value:.0f}" for value in (least, *inner, most))


if __name__ == "__main__":
    sys.exit(main())
