"""The benchmarks' sections of the documents: each a name, and its Markdown from the committed results."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import (
    document,
    eval_document,
    goals,
    goals_document,
    gpu_document,
    prefill_document,
    solvers_document,
)

_SOLVERS = "solvers*.json"  # the study of the solvers, beside the other results of a CPU
_SPECTRA = "spectra*.json"  # a model's spectra, which no section shows
_PREFILL = "prefill*.json"  # of a CPU
_NO_GPU = ("cpu", "eval")  # folders of results that are not a GPU's


def speed(results: Path, base: Path) -> list[str]:
    """The operator and its competitors on a CPU."""
    shown = (document.PRUNE_HEADER, document.prune_cells)
    return [document.table(r, "prune", *shown) for r in _of_cpu(results) if r["prune"]]


def stages(results: Path, base: Path) -> list[str]:
    """The five stages on a CPU."""
    shown = (document.STAGE_HEADER, document.stage_cells)
    return [document.table(r, "stages", *shown) for r in _of_cpu(results) if r["stages"]]


def reached(results: Path, base: Path) -> list[str]:
    """The goals on a CPU, of machines with as many cores as they are set for."""
    return [
        goals_document.table(result, goals.GOALS)
        for result in _of_cpu(results)
        if result["machine"]["cores"] == goals.CORES
    ]


def solvers(results: Path, base: Path) -> list[str]:
    """The study of the solvers, with its plot where there is one."""
    return [
        solvers_document.tables(json.loads(file.read_text()), _picture(file, base))
        for file in sorted((results / "cpu").glob(_SOLVERS))
    ]


def prefill(results: Path, base: Path) -> list[str]:
    """A model's prefill on a CPU."""
    files = sorted((results / "cpu").glob(_PREFILL))
    return [prefill_document.table(json.loads(file.read_text())) for file in files]


def answers(results: Path, base: Path) -> list[str]:
    """The tiny VLM's answers in one table and a plot."""
    file = results / "eval" / "methods.json"
    if not file.is_file():
        return []
    return [eval_document.overview(json.loads(file.read_text()), _picture(file, base))]


def all_answers(results: Path, base: Path) -> list[str]:
    """The tiny VLM's answers at every budget, and what the paper leaves open."""
    shown = {"methods": eval_document.methods, "ablations": eval_document.ablations}
    files = ((results / "eval" / f"{name}.json", tables) for name, tables in shown.items())
    return [tables(json.loads(file.read_text())) for file, tables in files if file.is_file()]


def gpu(results: Path, base: Path) -> list[str]:
    """The operator on GPUs in short, and the goals there."""
    return [gpu_document.overview(run) for run in _of_gpus(results)] or [gpu_document.UNMEASURED]


def gpu_details(results: Path, base: Path) -> list[str]:
    """All of the operator on GPUs: rates, kernels, eigensolvers."""
    return [gpu_document.details(result) for result in _of_gpus(results)]


def gpu_prefill(results: Path, base: Path) -> list[str]:
    """A model's prefill on GPUs."""
    return [gpu_document.prefill(r) for r in _of_gpus(results) if r.get("prefill")]


# By name: f(results, base) gives the blocks of a section, of the folder with the results, for a document in
# the folder ``base``, which the plots' addresses begin at.
SECTIONS: dict[str, Callable[[Path, Path], list[str]]] = {
    "cpu": speed,
    "stages": stages,
    "goals": reached,
    "solvers": solvers,
    "prefill": prefill,
    "answers": answers,
    "all-answers": all_answers,
    "gpu": gpu,
    "gpu-details": gpu_details,
    "gpu-prefill": gpu_prefill,
}


def _of_cpu(results: Path) -> list[dict[str, Any]]:
    """What ``svdprune bench --json`` wrote, in the order of the file names."""
    folder = results / "cpu"
    others = {file for pattern in (_SOLVERS, _SPECTRA, _PREFILL) for file in folder.glob(pattern)}
    files = sorted(set(folder.glob("*.json")) - others)
    if not files:
        raise ValueError(f"no results in {folder}: run `svdprune bench --json {folder}/NAME.json`")
    return [json.loads(file.read_text()) for file in files]


def _of_gpus(results: Path) -> list[dict[str, Any]]:
    """What ``run_gpu.sh`` wrote, in the order of the paths: a folder for each GPU; there may be none."""
    found = []
    for file in sorted(results.glob("*/*.json")):
        if file.parent.name in _NO_GPU:
            continue
        result = json.loads(file.read_text())
        if not result.get("machine", {}).get("gpu"):
            raise ValueError(f"{file} was not measured on a GPU")
        found.append(result)
    return found


def _picture(file: Path, base: Path) -> str | None:
    """The address of the plot beside a result, from the document's folder; None where there is no plot."""
    picture = file.with_suffix(".png")
    return Path(os.path.relpath(picture, base)).as_posix() if picture.exists() else None
