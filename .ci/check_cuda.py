"""Checks a CUDA build that no GPU has run: its symbols, its kernels' resources, its list of sources.

python .ci/check_cuda.py BUILD_LOG LIBRARY [--write]
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "csrc" / "cuda" / "resources.md"

# Where an undefined symbol may come from: the C and C++ runtimes, CUDA's libraries, and of torch the stable
# shims alone. Nothing of Python.
ALLOWED = re.compile(
    r"^(aoti_torch_|torch_(get|set|call|library|new|delete|list|string|c10|cuda|parse|parallel)"
    r"|.*@(GLIBC|GLIBCXX|CXXABI|GCC)_"
    r"|.*@libcudart|.*@libcublas|.*@libcusolver|_ITM_|__gmon_start__|__cxa_finalize)"
)
ENTRY = re.compile(r"Compiling entry function '(\w+)' for '(sm_\w+)'")
SPILLS = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers(?:.*?(\d+) bytes smem)?")


def undefined_symbols(library: str) -> list[str]:
    """Undefined dynamic symbols that come from nowhere they may."""
    output = run("nm", "-D", "--undefined-only", library)
    names = [line.split()[-1] for line in output.splitlines() if line.strip()]
    return [name for name in names if not ALLOWED.match(name)]


def kernels(log: str) -> list[tuple[str, str, int, int, int, int]]:
    """(kernel, architecture, registers, shared bytes, stack bytes, spilled bytes), sorted."""
    rows = []
    name = architecture = ""
    stack = spilled = 0
    for line in log.splitlines():
        if entry := ENTRY.search(line):
            name, architecture = entry.groups()
            stack = spilled = 0
        elif spills := SPILLS.search(line):
            stack = int(spills[1])
            spilled = int(spills[2]) + int(spills[3])
        elif (used := USED.search(line)) and name:
            rows.append((name, architecture, int(used[1]), int(used[2] or 0), stack, spilled))
            name = ""
    readable = run("c++filt", *(row[0] for row in rows)).splitlines() if rows else []
    return sorted((shorten(text), *row[1:]) for text, row in zip(readable, rows, strict=True))


def shorten(name: str) -> str:
    """'void ns::(anonymous namespace)::kernel<float>(Images, ...)' -> 'kernel<float>'."""
    name = name.replace("(anonymous namespace)::", "").removeprefix("void ")
    return name.split("(")[0].replace("svdprune::cuda::", "")


def table(rows: list[tuple[str, str, int, int, int, int]]) -> str:
    """The Markdown file."""
    lines = [
        "# Resources of the CUDA kernels",
        "",
        "As `ptxas -v` of CUDA 13.0 reports them; written by `.ci/cuda --write`, checked by `.ci/cuda`.",
        "Registers a thread, bytes a block (static shared memory) and a thread (stack, spills).",
        "",
        "| kernel | architecture | registers | shared | stack | spilled |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    lines += ["| " + " | ".join(["`" + row[0] + "`", *map(str, row[1:])]) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def run(*command: str) -> str:
    """A command's output."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def main(log: str, library: str, write: bool) -> int:
    """Returns the exit status."""
    failures = []
    if stray := undefined_symbols(library):
        failures.append("undefined symbols from nowhere they may come: " + ", ".join(stray))
    sources = (ROOT / "csrc" / "sources.txt").read_text().split()
    present = {str(p.relative_to(ROOT / "csrc")) for p in (ROOT / "csrc/cuda").glob("*.c*")}
    present = {name for name in present if not name.endswith(".cuh")}
    if missing := present - set(sources):
        failures.append("not in csrc/sources.txt: " + ", ".join(sorted(missing)))

    rows = kernels(Path(log).read_text())
    if not rows:
        failures.append(f"no kernel found in {log}")
    if spilling := [f"{row[0]} for {row[1]}" for row in rows if row[-1]]:
        failures.append("registers are spilled by " + ", ".join(spilling))
    new = table(rows)
    if write:
        TABLE.write_text(new)
    elif not TABLE.exists() or TABLE.read_text() != new:
        failures.append(
            f"{TABLE.relative_to(ROOT)} is stale: .ci/cuda --write, and look at the change"
        )

    for failure in failures:
        print(f"check_cuda: {failure}", file=sys.stderr)
    print(f"check_cuda: {len(rows)} kernels, {len(failures)} failures")
    return int(bool(failures))


if __name__ == "__main__":
    arguments = [a for a in sys.argv[1:] if a != "--write"]
    sys.exit(main(*arguments, write="--write" in sys.argv))
