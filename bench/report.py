"""Rewrites the benchmarks' sections of README.md and docs/ from the committed results in ``bench/results``.

``python -m bench.report`` in the source folder; ``--check`` only says whether the documents are up to date.
A section stands between ``<!-- bench:NAME:begin -->`` and ``<!-- bench:NAME:end -->``; ``bench.sections`` has
the names.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from bench.sections import SECTIONS
from bench.timing import ROOT

_MARKER = re.compile(r"<!-- bench:([\w-]+):(begin|end) -->")


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: Command line; the process's own by default.

    Returns:
        Exit status: 0, 1 where ``--check`` finds a stale document, 2 where something is missing.
    """
    parser = argparse.ArgumentParser(prog="bench.report", description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit 1 if a document is stale")
    parser.add_argument("--results", type=Path, default=ROOT / "bench" / "results")
    parser.add_argument("documents", nargs="*", type=Path, help="README.md and docs/ by default")
    options = parser.parse_args(arguments)

    try:
        old = {document: document.read_text() for document in options.documents or documents()}
        new = {
            document: rewrite(text, options.results, document.parent)
            for document, text in old.items()
        }
    except (OSError, ValueError) as error:
        print(f"bench.report: {error}", file=sys.stderr)
        return 2
    stale = [document for document in old if new[document] != old[document]]
    if options.check:
        for document in stale:
            print(
                f"{document} does not show {options.results}: run `python -m bench.report`",
                file=sys.stderr,
            )
        return int(bool(stale))
    for document in stale:
        document.write_text(new[document])
    return 0


def documents() -> list[Path]:
    """The documents that may hold sections."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def rewrite(text: str, results: Path, base: Path) -> str:
    """Puts the results' tables between a document's markers.

    Args:
        text: The document. Sections that it lacks are not asked for.
        results: Folder of the results.
        base: The document's folder, which the plots' addresses begin at.

    Returns:
        The text with each section replaced.

    Raises:
        ValueError: A marker lacks its partner or names no section, or a result is missing.
    """
    parts, position, markers = [], 0, list(_MARKER.finditer(text))
    for begin, end in zip(markers[::2], [*markers[1::2], None], strict=False):
        name, side = begin.groups()
        if name not in SECTIONS:
            raise ValueError(f"{begin[0]} names none of the sections {', '.join(SECTIONS)}")
        if side != "begin" or end is None or end.groups() != (name, "end"):
            found = "nothing" if end is None else end[0]
            expected = f"<!-- bench:{name}:begin --> and <!-- bench:{name}:end -->"
            raise ValueError(f"{expected} must follow each other, got {begin[0]} and {found}")
        blocks = SECTIONS[name](results, base)
        parts += [text[position : begin.end()], "\n", "\n\n".join(blocks), "\n"]
        position = end.start()
    return "".join([*parts, text[position:]])


if __name__ == "__main__":
    sys.exit(main())
