"""Runs every benchmark through pytest-benchmark; prints tables, writes JSON.

``python -m bench.run [--quick] [--filter TEXT] [--json FILE]`` in the source folder; ``svdprune bench``
does the same.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from bench import document
from bench.timing import ROOT, describe_machine
from svdprune_ext.demo.settings import SettingsError, check_folder

_NOTHING_COLLECTED = 5


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: Command line; the process's own by default.

    Returns:
        Exit status: 0, or pytest's; 2 for an argument that is refused.
    """
    parser = argparse.ArgumentParser(prog="svdprune bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few rounds, one image a call")
    parser.add_argument("--filter", default="", help="pytest's -k: run the matching ones only")
    parser.add_argument("--json", type=Path, help="write machine and rows there")
    options = parser.parse_args(arguments)

    console = Console(markup=False, highlight=False)
    if not console.is_terminal:
        console.width = 180
    if options.json is not None:
        try:
            _check_file(options.json)
        except SettingsError as error:
            print(f"svdprune bench: {error}", file=sys.stderr)
            return 2
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "benchmarks.json"
        status = _run_pytest(raw, options.quick, options.filter, console)
        if status == _NOTHING_COLLECTED:
            console.print(f"svdprune bench: --filter: nothing matches {options.filter!r}")
            return 2
        benchmarks = json.loads(raw.read_text() or "{}") if raw.exists() else {}
    if status != 0:
        return status
    result = {
        "machine": describe_machine(),
        **document.rows_of(benchmarks.get("benchmarks", [])),
    }
    _print(result, console)
    if options.json is not None:
        document.write(result, options.json)
        console.print(f"Written: {options.json}")
    return 0


def _check_file(path: Path) -> None:
    """Refuses a file that cannot be written, before the work that is to go into it."""
    if path.is_dir():
        raise SettingsError(f"--json: must be a file, got the folder {path}")
    check_folder(path.parent, "--json")


def _run_pytest(raw: Path, quick: bool, filter_: str, console: Console) -> int:
    command = [
        *(sys.executable, "-m", "pytest", "bench", "-v", "-rs"),
        *("-o", "addopts=", "-o", "python_files=bench_*.py", "-p", "no:cacheprovider"),
        *("--benchmark-only", f"--benchmark-json={raw}", "--benchmark-columns=median,rounds"),
        *(["--quick"] if quick else []),
        *(["-k", filter_] if filter_ else []),
    ]
    lines: list[str] = []
    with (
        subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process,
        Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        ) as progress,
    ):
        task = progress.add_task("Loading torch", total=100)
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            # A line of pytest's verbose report: "bench/bench_prune.py::test_x[case] PASSED [ 12%]".
            if found := re.search(r"::(\S+) \w+.*\[ *(\d+)%\]", line):
                progress.update(task, description=found[1], completed=int(found[2]))
    if process.returncode not in (0, _NOTHING_COLLECTED):
        console.print("".join(lines))
    for line in lines:
        if line.startswith("SKIPPED") and "--quick" not in line:
            console.print(line.strip())
    return process.returncode


def _print(result: dict[str, Any], console: Console) -> None:
    console.print(document.machine_line(result["machine"]))
    for title, header, cells, rows in (
        ("svdprune::prune against PyTorch (medians)", *_PRUNE, result["prune"]),
        ("The five stages, one image (medians)", *_STAGES, result["stages"]),
    ):
        if not rows:
            continue
        table = Table(title=title)
        for column in header:
            table.add_column(column, justify="left" if column == "features" else "right")
        for row in rows:
            table.add_row(*cells(row))
        console.print(table)


_PRUNE = (document.PRUNE_HEADER, document.prune_cells)
_STAGES = (document.STAGE_HEADER, document.stage_cells)

if __name__ == "__main__":
    sys.exit(main())
