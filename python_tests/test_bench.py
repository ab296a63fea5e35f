"""The benchmarks' own parts: timing, inputs, the JSON and the documents' tables. No time is asserted."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench import document, report, run  # noqa: E402
from bench.inputs import Case  # noqa: E402
from bench.sections import SECTIONS  # noqa: E402
from bench.timing import describe_machine, interleaved, median  # noqa: E402
from svdprune_ext.reference import oracle_leverage  # noqa: E402

RESULT = {
    "machine": {
        "cpu": "Some CPU",
        "cores": 2,
        "threads": 2,
        "python": "3.11.0",
        "torch": "2.13.0",
        "svdprune": "0.1.0",
        "revision": "abc",
        "date": "2026-01-01",
    },
    "prune": [
        {
            "images": 1,
            "tokens": 576,
            "width": 1024,
            "spectrum": "photograph",
            "keep": 32,
            "rank": 21.0,
            "seconds": {
                "svdprune": 0.002,
                "svdprune_eigh": 0.008,
                "svdprune_pivoted": 0.001,
                "gram_eigh": 0.02,
                "svd": 0.1,
            },
            "rounds": {"svdprune": 9, "svdprune_eigh": 9, "gram_eigh": 9, "svd": 9},
        }
    ],
    "stages": [
        {
            "tokens": 576,
            "width": 1024,
            "spectrum": "photograph",
            "seconds": {
                "gram": 1e-3,
                "spectrum": 2e-3,
                "leverage": 5e-4,
                "select": 3e-6,
                "gather": 497e-6,
            },
            "rounds": {},
        }
    ],
}
README = (
    "# Title\n<!-- bench:cpu:begin -->\nold\n<!-- bench:cpu:end -->\nbetween\n"
    "<!-- bench:stages:begin --><!-- bench:stages:end -->\nafter\n"
)


class FakeClock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def test_competitors_alternate_and_slow_ones_drop_out():
    clock, calls = FakeClock(), []

    def candidate(name, seconds):
        def run():
            calls.append(name)
            clock.now += seconds

        return run

    candidates = {"fast": candidate("fast", 1.0), "slow": candidate("slow", 10.0)}
    durations = interleaved(candidates, budget=5.0, min_rounds=2, max_rounds=50, clock=clock)
    assert calls == ["fast", "slow"] + ["fast", "slow"] * 2 + ["fast"] * 3
    assert durations == {"fast": [1.0] * 5, "slow": [10.0] * 2}


def test_rounds_are_capped():
    clock = FakeClock()
    durations = interleaved({"free": lambda: None}, budget=1.0, max_rounds=7, clock=clock)
    assert durations == {"free": [0.0] * 7}


def test_median():
    assert median([3.0, 1.0, 100.0]) == 3.0


@pytest.mark.parametrize("shape", [(256, 1024), (576, 1024), (576, 4096)])
def test_photograph_like_features_have_the_rank_they_promise(shape):
    x = Case(1, *shape).features()[0]
    assert 15 <= oracle_leverage(x, 0.9).rank <= 25
    assert torch.equal(x, Case(1, *shape).features()[0])


def test_flat_features_have_a_high_rank():
    assert oracle_leverage(Case(1, 256, 1024, "flat").features()[0], 0.9).rank > 100


def test_the_images_of_a_batch_differ():
    x = Case(2, 16, 8).features()
    assert x.shape == (2, 16, 8)
    assert not torch.equal(x[0], x[1])


def test_the_machine_is_described():
    assert set(describe_machine()) == set(RESULT["machine"])


def test_rows_gather_the_columns_of_a_case():
    def entry(column, seconds):
        info = {"table": "prune", "column": column, "images": 1, "rank": 20.0}
        stats = {"median": seconds, "rounds": 4}
        return {"group": "case", "extra_info": info, "stats": stats}

    rows = document.rows_of([entry("svdprune", 0.1), entry("svd", 0.5)])
    assert rows == {
        "prune": [
            {
                "images": 1,
                "rank": 20.0,
                "seconds": {"svdprune": 0.1, "svd": 0.5},
                "rounds": {"svdprune": 4, "svd": 4},
            }
        ],
        "stages": [],
    }


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (2.5, "2.5 s"),
        (0.0123, "12.3 ms"),
        (4.56e-5, "45.6 µs"),
        (3e-8, "30 ns"),
        (0.9996, "1 s"),
        (0.1234, "123 ms"),
        (None, "-"),
    ],
)
def test_seconds_are_readable(seconds, text):
    assert document.format_seconds(seconds) == text


def test_report_rewrites_between_the_markers(tmp_path):
    readme, results = tmp_path / "README.md", tmp_path / "results"
    (results / "cpu").mkdir(parents=True)
    (results / "cpu" / "machine.json").write_text(json.dumps(RESULT))
    readme.write_text(README)
    paths = ["--results", str(results), str(readme)]

    assert report.main(["--check", *paths]) == 1
    assert readme.read_text() == README
    assert report.main(paths) == 0
    assert report.main(["--check", *paths]) == 0

    text = readme.read_text()
    assert "old" not in text
    assert text.startswith("# Title\n<!-- bench:cpu:begin -->\n")
    assert text.endswith("<!-- bench:stages:end -->\nafter\n")
    assert (
        "| 1 x 576 x 1024 | photograph | 21 | 2 ms | - | 8 ms (4.0x) | 1 ms (0.5x) | 20 ms (10.0x) "
        "| 100 ms (50.0x) |" in text
    )
    assert "| 576 x 1024 | photograph | 1 ms (25%) | 2 ms (50%) |" in text
    assert text.count("Some CPU, 2 cores, 2 threads; torch 2.13.0; svdprune_ext 0.1.0 (abc)") == 2


def test_report_says_what_is_missing(tmp_path, capsys):
    readme = tmp_path / "README.md"
    readme.write_text(README)
    assert report.main(["--results", str(tmp_path), str(readme)]) == 2
    assert "svdprune bench --json" in capsys.readouterr().err
    assert readme.read_text() == README


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<!-- bench:cpu:begin -->", "got <!-- bench:cpu:begin --> and nothing"),
        ("<!-- bench:cpu:end -->", "got <!-- bench:cpu:end --> and nothing"),
        (
            "<!-- bench:cpu:begin --><!-- bench:stages:end -->",
            "got <!-- bench:cpu:begin --> and <!-- bench:stages:end -->",
        ),
        (
            "<!-- bench:cpi:begin --><!-- bench:cpi:end -->",
            "names none of the sections cpu, stages",
        ),
    ],
)
def test_markers_come_in_pairs_that_name_a_section(text, said, tmp_path, capsys):
    document = tmp_path / "README.md"
    document.write_text(text)
    assert report.main([str(document)]) == 2
    assert said in capsys.readouterr().err
    assert document.read_text() == text


def test_the_documents_show_every_section_once():
    text = "".join(document.read_text() for document in report.documents())
    for name in SECTIONS:
        assert text.count(f"<!-- bench:{name}:begin -->") == 1, name


def test_a_benchmark_runs_through_pytest_benchmark(tmp_path, monkeypatch):
    # Its own pytest would take itself for a worker of this one, and not measure.
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    out = tmp_path / "bench.json"
    assert run.main(["--quick", "--filter", "test_prune and 1x256x", "--json", str(out)]) == 0
    written = json.loads(out.read_text())
    assert set(written["machine"]) == set(RESULT["machine"])
    (row,) = written["prune"]
    assert set(row["seconds"]) == set(document.CANDIDATES) - {document.SINGLY}
    assert min(row["seconds"].values()) > 0
    assert run.main(["--filter", "nothing-like-this"]) == 2


def test_a_case_is_measured_once_for_all_candidates():
    options = ["-o", "addopts=", "-o", "python_files=bench_*.py", "--setup-plan", "--quick"]
    found = subprocess.run(
        [sys.executable, "-m", "pytest", "bench/bench_prune.py", *options, "-k", "1x256x or flat"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert found.returncode == 0
    assert found.stdout.count("SETUP    M measured") == 2
    assert found.stdout.count("test_prune[") == 2 * (len(document.CANDIDATES) - 1)


@pytest.mark.parametrize("name", ["test_bench.py/b.json", "."])
def test_bench_refuses_a_file_that_it_could_not_write(name, monkeypatch, capsys):
    monkeypatch.setattr(run, "_run_pytest", lambda *_: 1 / 0)
    monkeypatch.chdir(Path(__file__).parent)
    assert run.main(["--quick", "--json", name]) == 2
    assert capsys.readouterr().err.startswith("svdprune bench: --json: ")
