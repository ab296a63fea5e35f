"""The demonstration from settings to files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from svdprune_ext.demo.agreement import check_agreement
from svdprune_ext.demo.bundle import Bundle
from svdprune_ext.demo.checkpoint import load_checkpoint
from svdprune_ext.demo.figure import draw
from svdprune_ext.demo.measure import measure
from svdprune_ext.demo.photo import load_photo
from svdprune_ext.demo.random_llava import Shape, build_random_llava
from svdprune_ext.demo.result import Result
from svdprune_ext.demo.settings import Settings
from svdprune_ext.demo.tables import show


def run(settings: Settings, console: Console, shape: Shape | None = None) -> Result:
    """Runs the demonstration: prints tables, writes demo.png and demo.json.

    Args:
        settings: What is asked for.
        console: Where to print.
        shape: Sizes of the model with random weights; LLaVA-1.5's by default.

    Returns:
        The result; ``result.agreement.agrees`` says whether the operator agrees with the oracle.

    Raises:
        SettingsError: A setting is wrong; nothing was built then.
    """
    shape = shape or Shape()
    settings.check()
    if settings.model is None:
        settings.check_keep(shape.num_tokens)
    with _progress(console) as progress:
        progress("Reading the photograph")
        photo, photo_name = load_photo(settings.photo)
        bundle = _bundle(settings, shape, progress)
        full, pruned = measure(bundle, photo, settings, progress)
        progress("Computing the float64 SVD to compare with")
        agreement = check_agreement(pruned, settings.variance)
        result = Result(
            settings=settings,
            photo_name=photo_name,
            model_name=bundle.name,
            meaningful=bundle.meaningful,
            device=str(bundle.model.device),
            dtype=str(bundle.model.dtype).removeprefix("torch."),
            full=full,
            pruned=pruned,
            agreement=agreement,
        )
        progress("Drawing")
        settings.out.mkdir(parents=True, exist_ok=True)
        draw(result, bundle.processor, settings.out / "demo.png")
        text = json.dumps(result.to_json(), indent=2, ensure_ascii=False)
        (settings.out / "demo.json").write_text(text + "\n", encoding="utf-8")
    show(result, console)
    written = f"Written: {settings.out / 'demo.png'}, {settings.out / 'demo.json'}"
    console.print(written, markup=False, highlight=False)
    return result


def _bundle(settings: Settings, shape: Shape, progress: Callable[[str], None]) -> Bundle:
    if settings.model is not None:
        progress(f"Loading {settings.model}")
        return load_checkpoint(settings)
    progress("Building a LLaVA-1.5-shaped model with random weights")
    dtype = torch.float32 if settings.dtype == "auto" else getattr(torch, settings.dtype)
    return build_random_llava(shape, settings.seed, dtype)


@contextmanager
def _progress(console: Console) -> Iterator[Callable[[str], None]]:
    """One line that says what goes on and since when; finished steps stay above it."""
    with Progress(
        SpinnerColumn(finished_text="[green]done[/]"),
        TextColumn("{task.description}", markup=False),
        TimeElapsedColumn(),
        console=console,
    ) as progress:

        def step(description: str) -> None:
            for task in progress.tasks:
                if not task.finished:
                    progress.update(task.id, total=1, completed=1)
            progress.add_task(description, total=None)

        yield step
        for task in progress.tasks:
            if not task.finished:
                progress.update(task.id, total=1, completed=1)
