"""Puts a GPU run together: ``gpu.json`` from its parts, and its tables at the end of ``summary.md``.

``python -m bench.gpu_result --out FOLDER --parts FOLDER``; ``run_gpu.sh`` calls it. A part that is missing,
since its stage failed, is left out.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from pathlib import Path
from typing import Any

from bench import gpu_document
from bench.gpu_timing import describe_gpu


def assemble(parts: Path, machine: dict[str, Any]) -> dict[str, Any]:
    """The result of a run.

    Args:
        parts: Holds ``stages.tsv`` (name, verdict, seconds), and ``kernels.json``, ``micro.json`` and
            ``prefill.json`` as far as they came to be.
        machine: What it was measured on.

    Returns:
        ``machine``, ``stages``, ``ceilings``, ``eigensolvers``, ``kernels``, ``micro``, ``prefill``.
    """
    with (parts / "stages.tsv").open() as file:
        stages = [
            {"name": name, "verdict": verdict, "seconds": int(seconds)}
            for name, verdict, seconds in csv.reader(file, delimiter="\t")
        ]
    kernels, micro, prefill = (
        _rows(parts / f"{name}.json") for name in ("kernels", "micro", "prefill")
    )
    return {
        "machine": machine,
        "stages": stages,
        "ceilings": micro.get("ceilings", {}),
        "eigensolvers": micro.get("eigensolvers", []),
        "kernels": kernels.get("rows", []),
        "micro": micro.get("rows", []),
        "prefill": prefill.get("rows", []),
    }


def _rows(file: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return found


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; exit status 0."""
    parser = argparse.ArgumentParser(prog="bench.gpu_result", description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--parts", type=Path, required=True)
    options = parser.parse_args(arguments)
    result = assemble(options.parts, describe_gpu())
    (options.out / "gpu.json").write_text(json.dumps(result, indent=1) + "\n")
    with (options.out / "summary.md").open("a") as summary:
        summary.write("\n" + gpu_document.tables(result) + "\n")
        if missing := gpu_document.reasons(result):
            summary.write("\nNot measured:\n\n" + "".join(f"- {line}\n" for line in missing))
    return 0


if __name__ == "__main__":
    sys.exit(main())
