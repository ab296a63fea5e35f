"""The goals of the CPU backend and how the README shows them. No time is asserted."""

import json
import re
import string
import sys
from math import inf
from pathlib import Path

import pytest
from reports import MACHINE, README, run_report, write_readme

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench import bench_prune, document, goals_document  # noqa: E402
from bench.goals import CORES, GOALS, Goal  # noqa: E402

CASE = {"tokens": 576, "width": 1024, "spectrum": "photograph"}
RESULT = {
    "machine": {**MACHINE, "cores": CORES},
    "prune": [
        {**CASE, "images": 1, "rank": 23.0, "seconds": {"svdprune": 0.01, "svd": 0.12}},
        {**CASE, "images": 8, "rank": 25.0, "seconds": {"svdprune": 0.04, "svdprune_singly": 0.08}},
    ],
    "stages": [{**CASE, "seconds": {"gram": 4e-3, "spectrum": 5e-3, "leverage": 1e-3}}],
}
REASON = "{allowed} allowed, Gram takes {gram} of {sum}, selection {select}."


def goal(**changes):
    values = {"images": 1, "tokens": 576, "width": 1024, "ranks": (1, 27), "over": "svd"}
    return Goal(**{**values, "ratio": 15, "reason": REASON, **changes})


def test_a_missed_goal_has_its_reason_with_what_was_measured():
    assert goals_document.cells(goal(), RESULT) == [
        *("1 x 576 x 1024", "1 to 27", "SVD", "15x", "**no**, 12.0x"),
        "8 ms allowed, Gram takes 4 ms of 10 ms, selection -.",
    ]


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({"ratio": 10}, "yes, 12.0x"),
        ({"ratio": 12}, "yes, 12.00x"),
        ({"ratio": 12.05}, "**no**, 12.00x"),
        ({"images": 8, "over": "svdprune_singly", "ratio": 1.8}, "yes, 2.0x"),
        ({"ranks": (24, 27)}, "not measured"),
        ({"ranks": (1, 22)}, "not measured"),
        ({"ranks": (101, inf)}, "not measured"),
        ({"images": 8}, "not measured"),
        ({"over": "gram_eigh"}, "not measured"),
        ({"width": 4096}, "not measured"),
    ],
)
def test_what_was_reached(changes, verdict):
    cells = goals_document.cells(goal(**changes), RESULT)
    assert cells[4] == verdict
    assert (cells[5] != "") == verdict.startswith("**no**")


def test_a_reason_needs_the_stages_that_it_names():
    with pytest.raises(ValueError, match=r"576 x 1024 is missed, and its reason names 'gram'"):
        goals_document.cells(goal(), {**RESULT, "stages": []})
    plain = goals_document.cells(goal(reason="As is."), {**RESULT, "stages": []})
    assert plain[5] == "As is."


def test_every_goal_is_a_case_that_is_measured_and_has_a_reason():
    for one in GOALS:
        cases = [
            case
            for case in bench_prune.CASES
            if (case.images, case.tokens, case.width) == (one.images, one.tokens, one.width)
            and (case.spectrum == "flat") == (one.ranks[0] > 100)
        ]
        assert len(cases) == 1
        assert one.over in bench_prune.candidates_of(cases[0])
        fields = {field for _, _, field, _ in string.Formatter().parse(one.reason) if field}
        assert fields <= {"allowed", "sum", *document.STAGES}
        assert one.ratio > 1


def test_batches_alone_are_compared_with_one_image_a_call():
    compared = [
        c.images for c in bench_prune.CASES if document.SINGLY in bench_prune.candidates_of(c)
    ]
    assert compared == [8] * 4


# The README.


@pytest.fixture
def readme(tmp_path):
    results = map(Path.read_text, sorted((ROOT / "bench/results/cpu").glob("*.json")))
    machine = next(result for result in map(json.loads, results) if "prune" in result)
    return write_readme(tmp_path, "goals", machine=machine, spectra={})


def test_the_report_shows_the_goals(readme):
    assert run_report(readme, "--check") == 1
    assert run_report(readme) == 0
    assert run_report(readme, "--check") == 0
    shown = readme.read_text().partition("bench:goals:begin")[2]
    rows = [line for line in shown.splitlines() if line.startswith("| ")][2:]
    assert len(rows) == len(GOALS)
    for row in rows:
        assert re.search(
            r"\| (yes, \d+\.\d+x \|  \||\*\*no\*\*, \d+\.\d+x \| \w|not measured)", row
        )
    assert "old" not in shown
    assert shown.endswith("<!-- bench:goals:end -->\nafter\n")


def test_other_machines_are_not_held_to_the_goals(readme):
    file = readme.parent / "results" / "cpu" / "machine.json"
    result = json.loads(file.read_text())
    result["machine"]["cores"] = CORES + 2
    file.write_text(json.dumps(result))
    assert run_report(readme) == 0
    assert "begin -->\n\n<!-- bench:goals:end -->" in readme.read_text()


def test_the_report_needs_no_section_of_goals(readme):
    readme.write_text(README)
    assert run_report(readme) == 0
    assert readme.read_text() == README
