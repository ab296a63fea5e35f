"""The goals of the CUDA backend and how the README shows them. No time is asserted."""

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench import gpu_document, gpu_goals  # noqa: E402

CASE = {"tokens": 576, "width": 1024, "dtype": "bfloat16", "spectrum": "photograph"}


def result(graph=2e-4, eager=5e-4, peer=5e-3, pivot=3e-5, images=1):
    seconds = {"svdprune": eager, "gram_eigh": peer}
    kernels = {"pivot_kernel": pivot, "gather_kernel": 5e-6}
    return {
        "micro": [{**CASE, "images": images, "eager": seconds, "graph": {"svdprune": graph}}],
        "kernels": [{**CASE, "images": 1, "operator": 'select "pivoted"', "kernels": kernels}],
    }


def goals(run):
    return [
        gpu_document.goal_cells(goal, value)
        for goal in gpu_goals.GOALS
        if (value := goal.value(run)) is not None
    ]


def verdicts(run):
    return {line[1]: line[3:] for line in goals(run)}


def test_what_a_run_measured_is_compared():
    assert verdicts(result()) == {
        "a call as a CUDA graph": ["yes, 200 µs", ""],
        "times as fast as Gram + eigh": ["**no**, 10.0x", ""],
        'select and gather of select "pivoted", 32 tokens': ["yes, 35 µs", ""],
    }


@pytest.mark.parametrize(
    ("graph", "verdict"),
    [(2.5e-4, "yes, 250 µs"), (3e-4, "**no**, 300 µs"), (2.5003e-4, "**no**, 250.03 µs")],
)
def test_a_time_is_to_stay_below(graph, verdict):
    assert verdicts(result(graph=graph))["a call as a CUDA graph"][0] == verdict


def test_a_miss_has_its_reason():
    missed = verdicts(result(pivot=5e-5))['select and gather of select "pivoted", 32 tokens']
    assert missed[0] == "**no**, 55 µs"
    assert "Gram matrix" in missed[1]


def test_other_inputs_count_for_nothing():
    run = {"micro": [{**result()["micro"][0], "width": 4096}], "kernels": []}
    assert goals(run) == []
    assert goals({}) == []


def test_every_goal_has_been_measured_and_each_miss_has_a_reason():
    for gpu in (ROOT / "bench" / "results").glob("h*"):
        runs = [json.loads(file.read_text()) for file in gpu.glob("*.json")]
        lines = [line for run in runs for line in goals(run)]
        assert len({(line[0], line[1]) for line in lines}) == len(gpu_goals.GOALS)
        assert all(line[4] for line in lines if line[3].startswith("**no**"))
        assert all("what that run reached" in gpu_document.tables(run) for run in runs)
