"""The demonstration from settings to files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from svdprune_ext.demo.agreement import check_agreement
from svdprune_ext.demo.bundle import Bundle
from svdprune_ext.demo.checkpoint import load_checkpoint
from svdprune_ext.demo.figure import draw
from svdprune_ext.demo.measure import measure
from svdprune_ext.demo.photo import load_photo
from svdprune_ext.demo.picture import Picture, ask_all, load_picture, load_tiny
from svdprune_ext.demo.random_llava import Shape, build_random_llava
from svdprune_ext.demo.result import Result
from svdprune_ext.demo.settings import PHOTO_QUESTION, Settings
from svdprune_ext.demo.tables import show

if TYPE_CHECKING:
    from PIL.Image import Image


def run(settings: Settings, console: Console, shape: Shape | None = None) -> Result:
    """Runs the demonstration: prints tables, writes demo.png and demo.json.

    Args:
        settings: What is asked for.
        console: Where to print.
        shape: Sizes of a model with random weights, which then takes a photograph; None follows the
            settings, with LLaVA-1.5's sizes where they ask for random weights.

    Returns:
        The result; ``result.agreement.agrees`` says whether the operator agrees with the oracle.

    Raises:
        SettingsError: A setting is wrong; nothing was built then.
    """
    settings.check()
    generated = settings.generated and shape is None
    shape = shape or Shape()
    if settings.model is None and not generated:
        settings.check_keep(shape.num_tokens)
    with _progress(console) as progress:
        picture = load_picture(settings.picture or 0) if generated else None
        photo, photo_name, settings = _image(picture, settings, progress)
        bundle = _bundle(settings, picture, shape, progress)
        settings.check_question(bundle.processor.image_token)
        full, pruned = measure(bundle, photo, settings, progress)
        asked = ask_all(bundle, picture, settings) if picture is not None else ()
        progress("Computing the same in float64 to compare with")
        agreement = check_agreement(pruned, settings)
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
            asked=asked,
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


def _image(
    picture: Picture | None, settings: Settings, progress: Callable[[str], None]
) -> tuple[Image, str, Settings]:
    """What the model sees, its name, and the settings with a question about it."""
    if picture is not None:
        question = settings.question or picture.questions[-1].text
        return picture.image, picture.name, replace(settings, question=question)
    progress("Reading the photograph")
    photo, name = load_photo(settings.photo)
    return photo, name, replace(settings, question=settings.question or PHOTO_QUESTION)


def _bundle(
    settings: Settings, picture: Picture | None, shape: Shape, progress: Callable[[str], None]
) -> Bundle:
    if picture is not None:
        progress("Loading the tiny VLM")
        return load_tiny(settings)
    if settings.model is not None:
        progress(f"Loading {settings.model}")
        return load_checkpoint(settings)
    progress("Building a LLaVA-1.5-shaped model with random weights")
    dtype = torch.float32 if settings.dtype == "auto" else getattr(torch, settings.dtype)
    return build_random_llava(shape, settings.seed or 0, dtype)


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
