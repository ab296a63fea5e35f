"""A README with places for tables, and results beside it, for the tests of ``bench.report``."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import report

MACHINE = {
    "cpu": "Some CPU",
    "cores": 2,
    "threads": 2,
    "torch": "2.13.0",
    "svdprune": "0.1.0",
    "revision": "abc",
    "date": "2026-01-01",
}
README = "# Title\n"


def section(name):
    return f"<!-- bench:{name}:begin -->\nold\n<!-- bench:{name}:end -->\nafter\n"


def write_readme(folder, name, **results):
    """A README with the section of that name, in the folder, and the results of a CPU by file name."""
    cpu = folder / "results" / "cpu"
    cpu.mkdir(parents=True)
    for file, result in results.items():
        (cpu / f"{file}.json").write_text(json.dumps(result))
    readme = folder / "README.md"
    readme.write_text(README + section(name))
    return readme


def run_report(readme, *options):
    return report.main([*options, "--results", str(readme.parent / "results"), str(readme)])
