"""The evaluation from settings to files."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markdown import Markdown
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch import Tensor

from svdprune_ext.demo.settings import check_folder
from svdprune_ext.evaluation import markdown
from svdprune_ext.evaluation.answering import answer, features
from svdprune_ext.evaluation.cells import UNPRUNED, Cell, Series
from svdprune_ext.evaluation.energy import span_shares
from svdprune_ext.evaluation.exam import Exam, prepare
from svdprune_ext.evaluation.presets import BUDGETS, BUDGETS_OF, PRESETS
from svdprune_ext.evaluation.records import Records, key_of, right_by_kind, surroundings
from svdprune_ext.evaluation.summary import summarise
from svdprune_ext.tiny_vlm import SPLITS, load


@dataclass(frozen=True)
class EvalSettings:
    """Options of the evaluation.

    Attributes:
        preset: One of ``PRESETS``.
        model: Folder of a checkpoint that knows the questions; None takes the tiny VLM of the package.
        images: How many images of the split, from number 0 on.
        split: One of ``tiny_vlm.SPLITS``.
        budgets: Vision tokens to keep; those that do not fit are left out. None: the preset's.
        seeds: How many seeds a random method gets.
        out: Folder for the records and the results.
    """

    preset: str = "methods"
    model: Path | None = None
    images: int = 300
    split: str = "test"
    budgets: tuple[int, ...] | None = None
    seeds: int = 3
    out: Path = Path("eval-out")

    def __post_init__(self) -> None:
        """Refuses what cannot be evaluated.

        Raises:
            ValueError: An option is out of its range; the message begins with its name.
        """
        for name, known in (("preset", PRESETS), ("split", SPLITS)):
            if getattr(self, name) not in known:
                got = getattr(self, name)
                raise ValueError(f"--{name}: must be one of {', '.join(known)}, got {got!r}")
        for name in ("images", "seeds"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name}: must be at least 1, got {getattr(self, name)}")
        if self.budgets is not None and (not self.budgets or min(self.budgets) < 1):
            raise ValueError(f"--budget: must be at least 1, got {list(self.budgets)}")
        check_folder(self.out)


def run(settings: EvalSettings, console: Console) -> dict[str, Any]:
    """Evaluates every cell of a preset that has no record yet, and writes the results of all.

    Args:
        settings: What is asked for.
        console: Where to show progress and results.

    Returns:
        What it wrote to ``<preset>.json``; ``<preset>.md`` and ``<preset>.png`` show the same.

    Raises:
        ValueError: The model's folder holds no checkpoint, or ``apply`` refuses a cell.
    """
    console.print("Preparing model, images and questions", highlight=False)
    model, processor = _load(settings.model)
    exam = prepare(processor, SPLITS[settings.split], settings.images)
    evaluation = _Evaluation(model, processor, exam, Records(settings.out / "records.jsonl"))
    planned = _plan(PRESETS[settings.preset](settings.seeds), settings, evaluation.tokens)
    evaluation.finish([UNPRUNED, *_cells(planned)], console)
    partners = [
        _partner(series, evaluation.kept(series.cells(keep)[0]))
        for series, keep in planned
        if series.adaptive
    ]
    evaluation.finish(_cells(partners), console)
    name = "the tiny VLM of the package" if settings.model is None else settings.model.name
    planned = [*planned, *partners]
    summary = summarise(settings.preset, planned, evaluation.find, evaluation.around, name)
    _write(summary, settings, console)
    return summary


def _load(folder: Path | None) -> tuple[Any, Any]:
    try:
        return load(folder)
    except Exception as error:  # of any type: what fails is up to the files that are there
        if folder is None:
            raise
        reason = " ".join(str(error).split())[:300]
        raise ValueError(
            f"--model: must be a folder with a LLaVA's weights and its processor, got {folder} ({reason})"
        ) from error


def _plan(series: list[Series], settings: EvalSettings, tokens: int) -> list[tuple[Series, int]]:
    budgets = settings.budgets
    if budgets is None:
        budgets = BUDGETS_OF.get(settings.preset, BUDGETS)
    elif min(budgets) >= tokens:
        raise ValueError(
            f"--budget: must be less than the model's {tokens} vision tokens, got {list(budgets)}"
        )
    return [(s, keep) for s in series for keep in s.budgets_within(tokens, budgets)]


def _cells(planned: list[tuple[Series, int]]) -> list[Cell]:
    return [cell for series, keep in planned for cell in series.cells(keep)]


def _partner(series: Series, kept: float) -> tuple[Series, int]:
    """A fixed budget of as many tokens as an adaptive one keeps on average."""
    arguments = {name: value for name, value in series.arguments.items() if name != "coverage"}
    keep = max(1, round(kept))
    return Series(f"fixed, {keep} tokens", series.group, arguments), keep


class _Evaluation:
    """A model and an exam, with the records there are."""

    def __init__(self, model: Any, processor: Any, exam: Exam, records: Records) -> None:
        self._model, self._processor, self._exam, self._records = model, processor, exam, records
        self.around = surroundings(model, exam)
        self._features: Tensor = features(model, exam)
        self.tokens = self._features.shape[1]

    def find(self, cell: Cell) -> dict[str, Any] | None:
        """The record of a cell; None if it is not finished."""
        return self._records.find(key_of(cell, self.around))

    def kept(self, cell: Cell) -> float:
        """Tokens that a finished cell kept of an image, on average."""
        record = self.find(cell)
        assert record is not None
        return float(record["kept"])

    def finish(self, cells: list[Cell], console: Console) -> None:
        """Evaluates the cells without a record, each once."""
        keys = {json.dumps(cell.key(), sort_keys=True): cell for cell in cells}
        missing = [cell for cell in keys.values() if self.find(cell) is None]
        if not missing:
            return
        with _progress(console) as progress:
            task = progress.add_task("", total=len(keys), completed=len(keys) - len(missing))
            for cell in missing:
                progress.update(task, description=_described(cell))
                self._records.add(key_of(cell, self.around), self._evaluate(cell))
                progress.advance(task)
            progress.update(task, description="cells finished")

    def _evaluate(self, cell: Cell) -> dict[str, Any]:
        start = time.perf_counter()
        answered = answer(self._model, self._processor, self._exam, cell)
        seconds = time.perf_counter() - start
        kept, energy = answered.kept, None
        if kept is not None:
            energy = span_shares(self._features, kept).mean().item()
        elif cell.keep is None:
            energy = 1.0
        counts = float(self.tokens) if cell.keep is None else answered.average
        return {
            "right": right_by_kind(self._exam, answered),
            "kept": counts if kept is None else kept.sum(1).double().mean().item(),
            "energy": energy,
            "rank": answered.rank,
            "seconds": seconds,
        }


def _progress(console: Console) -> Progress:
    return Progress(
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.description}", markup=False),
        console=console,
    )


def _described(cell: Cell) -> str:
    if cell.keep is None:
        return "all tokens"
    arguments = {"layer": cell.scored_layer} if cell.scored_layer is not None else {}
    arguments |= cell.arguments
    return ", ".join([f"keep {cell.keep}", *(f"{k} {v}" for k, v in arguments.items())])


def _write(summary: dict[str, Any], settings: EvalSettings, console: Console) -> None:
    from svdprune_ext.evaluation.figure import draw

    settings.out.mkdir(parents=True, exist_ok=True)
    base = settings.out / settings.preset
    text = json.dumps(summary, indent=1, ensure_ascii=False)
    base.with_suffix(".json").write_text(text + "\n", encoding="utf-8")
    page = markdown.document(summary)
    base.with_suffix(".md").write_text(page, encoding="utf-8")
    draw(summary, base.with_suffix(".png"))
    shown = page.partition("## By kind of question")[0]
    console.print(Markdown(shown))
    files = ", ".join(str(base.with_suffix(suffix)) for suffix in (".json", ".md", ".png"))
    console.print(f"Written: {files}", markup=False, highlight=False)
