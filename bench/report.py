"""Rewrites the README's benchmark tables from the committed results: ``bench/results/cpu``, ``.../<gpu>``.

``python -m bench.report`` in the source folder; ``--check`` only says whether the README is up to date.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable
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
from bench.timing import ROOT

_SOLVERS = "solvers*.json"  # the study of the solvers, beside the other results of a CPU
_SPECTRA = "spectra*.json"  # a model's spectra, which the README does not show
_PREFILL = "prefill*.json"  # of a CPU
_NO_GPU = ("cpu", "eval")  # folders of results that are not a GPU's
_SECTIONS = {
    "cpu": ("prune", document.PRUNE_HEADER, document.prune_cells),
    "stages": ("stages", document.STAGE_HEADER, document.stage_cells),
}


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: Command line; the process's own by default.

    Returns:
        Exit status: 0, 1 where ``--check`` finds a stale README, 2 where something is missing.
    """
    parser = argparse.ArgumentParser(prog="bench.report", description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit 1 if the README is stale")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md")
    parser.add_argument("--results", type=Path, default=ROOT / "bench" / "results")
    options = parser.parse_args(arguments)

    try:
        results, gpu_results = (
            load_results(options.results / "cpu"),
            load_gpu_results(options.results),
        )
        old = options.readme.read_text()
        new = rewrite_gpu(rewrite_goals(rewrite(old, results), results), gpu_results)
        new = rewrite_solvers(new, options.results / "cpu", options.readme.parent)
        new = rewrite_prefill(new, options.results / "cpu")
        new = rewrite_eval(new, options.results / "eval", options.readme.parent)
    except (OSError, ValueError) as error:
        print(f"bench.report: {error}", file=sys.stderr)
        return 2
    if options.check:
        if new != old:
            print(
                f"{options.readme} does not show {options.results}: run `python -m bench.report`",
                file=sys.stderr,
            )
        return int(new != old)
    options.readme.write_text(new)
    return 0


def load_results(folder: Path) -> list[dict[str, Any]]:
    """Reads every result of a folder, in the order of the file names.

    Args:
        folder: Holds files that ``svdprune bench --json`` wrote.

    Returns:
        Their contents.

    Raises:
        ValueError: There is none.
    """
    others = {file for pattern in (_SOLVERS, _SPECTRA, _PREFILL) for file in folder.glob(pattern)}
    files = sorted(set(folder.glob("*.json")) - others)
    if not files:
        raise ValueError(f"no results in {folder}: run `svdprune bench --json {folder}/NAME.json`")
    return [json.loads(file.read_text()) for file in files]


def rewrite(readme: str, results: list[dict[str, Any]]) -> str:
    """Puts the tables of the results between the README's markers.

    Args:
        readme: Text with the marker pairs ``<!-- bench:NAME:begin -->`` and ``<!-- bench:NAME:end -->``
            for the names "cpu" and "stages".
        results: Contents of result files.

    Returns:
        The text with both sections replaced.

    Raises:
        ValueError: A marker is missing.
    """
    for name, (table, header, cells) in _SECTIONS.items():
        blocks = [_block(result, table, header, cells) for result in results if result.get(table)]
        readme = _between_markers(readme, name, blocks)
    return readme


def rewrite_goals(readme: str, results: list[dict[str, Any]]) -> str:
    """Puts the goals and what was reached between the README's markers of the name "goals".

    A README without the section stays as it is.

    Args:
        readme: The text.
        results: Contents of result files; those of machines with another number of cores are left out.

    Returns:
        The text with the section replaced.

    Raises:
        ValueError: Only one of the two markers is there, or a stage that a reason names is not.
    """
    measured = (result for result in results if result["machine"]["cores"] == goals.CORES)
    tables = (goals_document.table(result, goals.GOALS) for result in measured)
    return _optional_section(readme, "goals", tables)


def rewrite_solvers(readme: str, folder: Path, base: Path) -> str:
    """Puts the study of the solvers between the README's markers of the name "solvers".

    Without a study the section is empty, and a README without the section stays as it is.

    Args:
        readme: The text.
        folder: Holds ``solvers*.json`` that ``bench.bench_solvers`` wrote, and a plot beside each.
        base: The README's folder, which the plots' addresses begin at.

    Returns:
        The text with the section replaced.

    Raises:
        ValueError: Only one of the two markers is there.
    """

    def tables(file: Path) -> str:
        picture = file.with_suffix(".png")
        image = Path(os.path.relpath(picture, base)).as_posix() if picture.exists() else None
        return solvers_document.tables(json.loads(file.read_text()), image)

    return _optional_section(readme, "solvers", map(tables, sorted(folder.glob(_SOLVERS))))


def rewrite_prefill(readme: str, folder: Path) -> str:
    """Puts the prefill on a CPU between the README's markers of the name "prefill".

    Without a result the section is empty, and a README without the section stays as it is.

    Args:
        readme: The text.
        folder: Holds ``prefill*.json`` that ``bench.bench_prefill --device cpu`` wrote.

    Returns:
        The text with the section replaced.

    Raises:
        ValueError: Only one of the two markers is there.
    """
    files = sorted(folder.glob(_PREFILL))
    tables = (prefill_document.table(json.loads(file.read_text())) for file in files)
    return _optional_section(readme, "prefill", tables)


def rewrite_eval(readme: str, folder: Path, base: Path) -> str:
    """Puts accuracies of the tiny VLM between the README's markers of the name "eval".

    Without a result the section is empty, and a README without the section stays as it is.

    Args:
        readme: The text.
        folder: Holds ``methods.json`` with its plot, and ``ablations.json``, that ``svdprune eval`` wrote.
        base: The README's folder, which the plot's address begins at.

    Returns:
        The text with the section replaced.

    Raises:
        ValueError: Only one of the two markers is there.
    """
    if "<!-- bench:eval:" not in readme:
        return readme
    blocks = []
    methods, ablations = folder / "methods.json", folder / "ablations.json"
    if methods.is_file():
        picture = methods.with_suffix(".png")
        image = Path(os.path.relpath(picture, base)).as_posix() if picture.exists() else None
        blocks.append(eval_document.methods(json.loads(methods.read_text()), image))
    if ablations.is_file():
        blocks.append(eval_document.ablations(json.loads(ablations.read_text())))
    return _between_markers(readme, "eval", blocks)


def load_gpu_results(folder: Path) -> list[dict[str, Any]]:
    """Reads every result of a GPU that is committed; there may be none.

    Args:
        folder: Holds, beside ``cpu`` and ``eval``, a folder for each GPU with files that ``run_gpu.sh``
            wrote.

    Returns:
        Their contents, in the order of the paths.

    Raises:
        ValueError: A file was written where there was no GPU.
    """
    results = []
    for file in sorted(folder.glob("*/*.json")):
        if file.parent.name in _NO_GPU:
            continue
        result = json.loads(file.read_text())
        if not result.get("machine", {}).get("gpu"):
            raise ValueError(f"{file} was not measured on a GPU")
        results.append(result)
    return results


def rewrite_gpu(readme: str, results: list[dict[str, Any]]) -> str:
    """Puts the GPU's tables between the README's markers of the name "gpu".

    Without a result the section says that there is none, and a README without the section stays as it is.

    Args:
        readme: The text.
        results: Contents of result files.

    Returns:
        The text with the section replaced.

    Raises:
        ValueError: There is a result, and a marker is missing.
    """
    if not results and "<!-- bench:gpu:" not in readme:
        return readme
    blocks = [gpu_document.tables(result) for result in results] or [gpu_document.UNMEASURED]
    return _between_markers(readme, "gpu", blocks)


def _optional_section(readme: str, name: str, blocks: Iterable[str]) -> str:
    """Puts the blocks between the markers; they are not asked for where the README has no such section."""
    if f"<!-- bench:{name}:" not in readme:
        return readme
    return _between_markers(readme, name, blocks)


def _between_markers(readme: str, name: str, blocks: Iterable[str]) -> str:
    begin, end = f"<!-- bench:{name}:begin -->", f"<!-- bench:{name}:end -->"
    head, found_begin, rest = readme.partition(begin)
    _, found_end, tail = rest.partition(end)
    if not found_begin or not found_end:
        raise ValueError(f"the README lacks the markers {begin} and {end}")
    return head + begin + "\n" + "\n\n".join(blocks) + "\n" + end + tail


def _block(
    result: dict[str, Any],
    table: str,
    header: list[str],
    cells: Callable[[dict[str, Any]], list[str]],
) -> str:
    lines = [
        document.machine_line(result["machine"]),
        "",
        _line(header),
        _line(["---" if column == "features" else "---:" for column in header]),
        *(_line(cells(row)) for row in result[table]),
    ]
    return "\n".join(lines)


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    sys.exit(main())
