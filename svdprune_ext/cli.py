"""The ``svdprune`` command: ``demo``, ``eval``, ``bench``, ``estimate`` and ``info``."""

from __future__ import annotations

import io
import json as json_
import subprocess
import sys
from dataclasses import asdict
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, NoReturn

import torch
import typer
from rich.console import Console
from rich.table import Table

import svdprune_ext
from svdprune_ext._load import load_native
from svdprune_ext.demo.settings import (
    KEPT_OF_PHOTO,
    KEPT_OF_PICTURE,
    PHOTO_QUESTION,
    VARIANCE,
    Settings,
    SettingsError,
)
from svdprune_ext.estimate import estimate as cost_of
from svdprune_ext.estimate_table import height_and_width, table_of
from svdprune_ext.vlm_shapes import read_config, shape_of

_ROOT = Path(__file__).resolve().parent.parent
_DEFAULTS = Settings()

# What each optional extra brings: module names, as they are imported.
_EXTRAS = {
    "hf": ("transformers",),
    "demo": ("transformers", "matplotlib", "numpy", "PIL", "skimage"),
    "bench": ("pytest", "pytest_benchmark"),
    "lmms-eval": ("transformers", "lmms_eval", "decord"),
}

app = typer.Typer(add_completion=False, no_args_is_help=True)


def main() -> None:
    """Runs the command line. What a terminal has no character for is shown as a question mark."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    app(prog_name="svdprune")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"svdprune_ext {svdprune_ext.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Vision-token pruning by SVD leverage scores: demonstration, benchmarks, build facts."""


@app.command()
def demo(
    photo: Annotated[
        Path | None,
        typer.Argument(help="Any image file; by default a generated picture, with real questions."),
    ] = None,
    keep: Annotated[
        int | None,
        typer.Option(
            help=f"Vision tokens to keep. [{KEPT_OF_PICTURE}; {KEPT_OF_PHOTO} of a photograph]"
        ),
    ] = None,
    variance: Annotated[
        float | None,
        typer.Option(
            help=f"Share of the energy that sets the rank, in (0, 1]; not with pivoted. [{VARIANCE}]"
        ),
    ] = None,
    select: Annotated[
        str, typer.Option(help="Rule of selection: topk, the highest leverage, or pivoted.")
    ] = _DEFAULTS.select,
    question: Annotated[
        str | None,
        typer.Option(help=f"What to ask. [of a photograph: {PHOTO_QUESTION}]"),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Folder or hub id of a LLaVA checkpoint. By default the tiny VLM of this package; for a "
            "photograph, random weights in LLaVA-1.5's shape, whose text means nothing."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for demo.png and demo.json.")] = _DEFAULTS.out,
    max_new_tokens: Annotated[
        int, typer.Option(help="Tokens to generate.")
    ] = _DEFAULTS.max_new_tokens,
    seed: Annotated[
        int | None, typer.Option(help="Seed of the random weights a photograph goes through. [0]")
    ] = None,
    dtype: Annotated[
        str, typer.Option(help="auto, float32, bfloat16 or float16.")
    ] = _DEFAULTS.dtype,
    rounds: Annotated[int, typer.Option(help="How often each run is measured.")] = _DEFAULTS.rounds,
    picture: Annotated[
        int | None, typer.Option(help="Number of the generated picture. [0]")
    ] = None,
) -> None:
    """Takes a picture through a LLaVA model with all vision tokens and with few.

    Shows what was kept, what each part took, and whether it agrees with the same in float64
    (exit status 1 where it does not).
    """
    if keep is None:
        keep = KEPT_OF_PICTURE if photo is None and model is None else KEPT_OF_PHOTO
    settings = Settings(
        photo=photo,
        keep=keep,
        variance=variance,
        question=question,
        model=model,
        out=out,
        max_new_tokens=max_new_tokens,
        seed=seed,
        dtype=dtype,
        rounds=rounds,
        picture=picture,
        select=select,
    )
    try:
        settings.check()
        _require("demo", "demo")
        from svdprune_ext.demo.run import run

        result = run(settings, Console())
    except SettingsError as error:
        _fail("demo", str(error))
    raise typer.Exit(0 if result.agreement.agrees else 1)


@app.command("eval")
def evaluate(
    preset: Annotated[
        str, typer.Option(help="What to compare: methods, ablations, pivoted or quick.")
    ] = "methods",
    model: Annotated[
        Path | None,
        typer.Option(help="Folder of a checkpoint that knows the questions; the package's own."),
    ] = None,
    images: Annotated[int, typer.Option(help="Images of the split.")] = 300,
    split: Annotated[str, typer.Option(help="test, validation or train.")] = "test",
    budget: Annotated[
        list[int] | None,
        typer.Option(
            help="Vision tokens to keep; may be given again. [192 128 64 32 16 8; quick: 32 16]"
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(help="Seeds of a random method (quick: 1).")] = 3,
    out: Annotated[Path, typer.Option(help="Folder for records and results.")] = Path("eval-out"),
) -> None:
    """Measures what pruning does to a tiny VLM's answers, by method and budget.

    Writes PRESET.json, .md and .png. Finished cells stand in records.jsonl: after an interruption, the same
    command goes on.
    """
    _require("eval", "demo")
    from svdprune_ext.evaluation import EvalSettings, run

    try:
        budgets = tuple(budget) if budget else None
        settings = EvalSettings(preset, model, images, split, budgets, seeds, out)
        run(settings, Console())
    except ValueError as error:
        _fail("eval", str(error))


@app.command()
def bench(
    quick: Annotated[bool, typer.Option("--quick", help="Few rounds, one image a call.")] = False,
    json: Annotated[Path, typer.Option(help="Where to write machine and rows.")] = Path(
        "bench-out/bench.json"
    ),
    filter_: Annotated[
        str, typer.Option("--filter", help="Run only those that match, as pytest's -k.")
    ] = "",
) -> None:
    """Times the operator against PyTorch, and its five stages (needs a source checkout)."""
    if not (_ROOT / "bench" / "run.py").is_file():
        _fail(
            "bench",
            "the benchmarks are not part of a wheel: clone the repository, "
            "`pip install -e .[bench]` in it, and run `svdprune bench` again",
        )
    _require("bench", "bench")
    command = [sys.executable, "-m", "bench.run"]
    command += ["--quick"] if quick else []
    command += ["--json", str(json.resolve())]
    command += [f"--filter={filter_}"] if filter_ else []
    raise typer.Exit(subprocess.run(command, cwd=_ROOT, check=False).returncode)


@app.command()
def estimate(
    model: Annotated[
        str, typer.Option(help="Folder, config.json or cached hub id of a VLM; no weights needed.")
    ],
    keep: Annotated[
        list[int] | None, typer.Option(help="Vision tokens to keep; may be given again. [32]")
    ] = None,
    text_tokens: Annotated[int, typer.Option(help="Tokens of the prompt beside the image's.")] = 64,
    dtype: Annotated[
        str, typer.Option(help="Of the cache: float32, bfloat16 or float16.")
    ] = "bfloat16",
    batch: Annotated[int, typer.Option(help="Prompts, of one image each.")] = 1,
    image_size: Annotated[
        str | None,
        typer.Option(
            metavar="HEIGHTxWIDTH", help="In pixels, where the number of tokens depends on it."
        ),
    ] = None,
    after_projector: Annotated[
        bool, typer.Option("--after-projector", help="Prune after the projector, not before it.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print numbers, not a table.")] = False,
) -> None:
    """Computes FLOPs and key-value cache of a prompt, with all vision tokens and with few."""
    _require("estimate", "hf")
    try:
        shape = shape_of(read_config(model), height_and_width(image_size))
        costs = [
            cost_of(
                shape,
                count,
                text_tokens=text_tokens,
                batch=batch,
                dtype=dtype,
                after_projector=after_projector,
            )
            for count in (None, *(keep or [32]))
        ]
    except ValueError as error:
        _fail("estimate", str(error))
    if json:
        rows = [{**asdict(c), "total": c.total, "prefill_share": c.prefill_share} for c in costs]
        print(json_.dumps({"model": model, "unpruned": rows[0], "pruned": rows[1:]}, indent=2))
    else:
        Console(markup=False, highlight=False).print(table_of(model, costs))


@app.command()
def info() -> None:
    """Prints versions, build facts, backends, and the extras that are missing."""
    table = Table(show_header=False, title="svdprune_ext", title_justify="left")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in _versions():
        table.add_row(name, value)
    table.add_section()
    for name, value in load_native().build_info().items():
        table.add_row(f"build: {name.replace('_', ' ')}", str(value) or "-")
    table.add_section()
    table.add_row("backend: CPU", f"available, {torch.get_num_threads()} threads")
    table.add_row("backend: CUDA", _cuda_state())
    table.add_section()
    for extra, modules in _EXTRAS.items():
        missing = [module for module in modules if find_spec(module) is None]
        state = f"missing {', '.join(missing)}: {_how(extra)}" if missing else "installed"
        table.add_row(f"extra: {extra}", state)
    Console(markup=False, highlight=False).print(table)


def _versions() -> list[tuple[str, str]]:
    found = find_spec("transformers") is not None
    transformers = version("transformers") if found else f"missing: {_how('hf')}"
    return [
        ("svdprune_ext", svdprune_ext.__version__),
        ("torch", torch.__version__),
        ("transformers", transformers),
        ("Python", sys.version.split()[0]),
    ]


def _cuda_state() -> str:
    build = "SVDPRUNE_CUDA=ON pip install --no-build-isolation -e ."
    if svdprune_ext.has_cuda and torch.cuda.is_available():
        return f"available, {torch.cuda.get_device_name()}"
    if torch.version.cuda is None:
        return (
            f"not available: torch {torch.__version__} has no CUDA; install a CUDA build of torch, "
            f"then in the source folder: {build}"
        )
    if not svdprune_ext.has_cuda:
        return f"not available: built without it; in the source folder: {build}"
    return "built, but torch sees no GPU: check the driver (nvidia-smi) and CUDA_VISIBLE_DEVICES"


def _require(command: str, extra: str) -> None:
    missing = [module for module in _EXTRAS[extra] if find_spec(module) is None]
    if missing:
        _fail(command, f"{', '.join(missing)} not installed: {_how(extra)}")


def _how(extra: str) -> str:
    return f"pip install 'svdprune_ext[{extra}]'"


def _fail(command: str, reason: str) -> NoReturn:
    typer.echo(f"svdprune {command}: {' '.join(reason.splitlines())}", err=True)
    raise typer.Exit(2)


if __name__ == "__main__":
    main()
