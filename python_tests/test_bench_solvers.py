"""The study of the solvers and its part of the README. No time is asserted."""

import copy
import json
import sys
from pathlib import Path

import pytest
import torch
from reports import MACHINE, README, run_report, section, write_readme

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench import bench_solvers, solvers_document  # noqa: E402
from bench.hard_suite import Oracle, suite, with_energy  # noqa: E402
from bench.photographs import NOISE, PHOTOGRAPHS, photographs  # noqa: E402
from svdprune_ext.demo.random_llava import Shape  # noqa: E402
from svdprune_ext.reference import oracle_leverage  # noqa: E402

ROW = {
    "features": "flat",
    "tokens": 576,
    "width": 1024,
    "variance": 0.9,
    "keep": 32,
    "rank": 23,
    "gap": 1e-3,
    "solver": "tridiag",
    "steps": 95,
    "size": 576,
    "refined": False,
    "seconds": {"tridiag": 0.002, "eigh": 0.008, "gram_eigh": 0.01, "svd": 0.1},
    "rounds": {"tridiag": 9, "eigh": 9, "gram_eigh": 9, "svd": 3},
    "ranks": {"tridiag": 23, "eigh": 23, "gram_eigh": 24, "svd": 23},
    "errors": {"tridiag": 1e-6, "eigh": 2e-5, "gram_eigh": 1e-4, "svd": 1e-6},
    "allowed": dict.fromkeys(("tridiag", "eigh", "gram_eigh", "svd"), 2e-4),
    "stages": {"gram": 6e-4, "spectrum": 1.3e-3, "leverage": 5e-5, "select": 1e-5, "gather": 4e-5},
    "common": {"tridiag": 32, "eigh": 31, "gram_eigh": 32, "svd": 32},
}
LINE = (
    "| 576 x 1024 | flat | 23 | stop at 95 of 576 | 2 ms | 30%, 65% | 8 ms (4.0x) | 10 ms (5.0x) "
    "| 100 ms (50.0x) | 1e-06, 2e-04 | 32 of 32 |"
)


TOWER = Shape(
    **{"image": 28, "patch": 7, "vision_width": 32, "vision_layers": 3, "vision_heads": 2},
    **{"text_width": 32, "text_layers": 1, "text_heads": 2, "text_inner": 32},
)


def row(**changes):
    return {**copy.deepcopy(ROW), **changes}


@pytest.fixture(scope="module")
def rows():
    inputs = suite(tokens=48, width=64, tall=80)
    return bench_solvers.study(inputs, (0.8, 0.9), budget=0.0, min_rounds=1)


# The study.


@pytest.mark.parametrize("item", suite(tokens=48, width=64, tall=80), ids=lambda i: i.name)
def test_the_suite_is_finite_and_the_same_every_time(item):
    x = item.features()
    assert x.shape == (item.tokens, item.width)
    assert x.dtype == torch.float32
    assert x.isfinite().all()
    assert torch.equal(x, item.features())


def test_photographs_go_through_the_tower_and_noise_raises_the_rank():
    items = photographs(TOWER)
    assert [i.name for i in items[:2]] == ["astronaut, ViT", "coffee, ViT"]
    assert len(items) == len(PHOTOGRAPHS) + len(NOISE)
    images = [i.features() for i in items]
    assert all(x.shape == (16, 32) and x.isfinite().all() for x in images)
    assert not torch.equal(images[0], images[1])
    assert torch.equal(images[0], items[0].features())
    ranks = [Oracle(x).rank(0.9) for x in (images[0], *images[len(PHOTOGRAPHS) :])]
    assert ranks == sorted(ranks)
    assert ranks[0] < ranks[-1]


@pytest.mark.parametrize("variance", [0.5, 0.9, 0.99, 1.0])
@pytest.mark.parametrize("shape", [(20, 30), (30, 20)])
def test_the_oracle_is_the_reference(shape, variance):
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(3))
    expected = oracle_leverage(x, variance)
    oracle = Oracle(x)
    assert oracle.rank(variance) == expected.rank
    torch.testing.assert_close(oracle.scores(expected.rank), expected.scores)


def test_the_gap_decides_what_is_allowed():
    oracle = Oracle(with_energy(8, 10, torch.tensor([4.0, 2.0, 2.0 - 4e-5, 1.0])))
    assert oracle.gap(1) == pytest.approx(0.5, rel=1e-4)
    assert oracle.allowed(1) == 2e-4
    assert oracle.gap(2) == pytest.approx(1e-5, rel=0.1)
    assert oracle.allowed(2) == pytest.approx(3e-4, rel=0.1)
    assert oracle.gap(8) is None
    assert Oracle(torch.eye(4, 6)).allowed(2) == float("inf")


def test_a_row_for_every_input_and_variance(rows):
    assert len(rows) == 2 * len(suite())
    assert {r["variance"] for r in rows} == {0.8, 0.9}
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows
    for r in rows:
        assert set(r) == set(ROW)
        for column in ("seconds", "rounds", "ranks", "errors", "allowed", "common"):
            assert set(r[column]) == set(bench_solvers.CANDIDATES)
        assert min(r["seconds"].values()) > 0
        assert 1 <= r["rank"] <= r["size"] == min(r["tokens"], r["width"])
        assert 1 <= r["steps"] <= r["size"]
        assert r["refined"] in (True, False)
        assert (r["stages"] is None) == (r["solver"] != "tridiag")


def test_the_default_solver_keeps_its_promise(rows):
    ratio, _ = solvers_document.worst(rows, "tridiag")
    assert ratio <= 1
    assert all(r["ranks"]["tridiag"] == r["rank"] for r in rows)
    assert all(r["common"]["tridiag"] == r["keep"] for r in rows)


def test_a_degenerate_cut_has_no_error():
    oracle = Oracle(torch.eye(4, 6))
    result = (torch.empty(0), torch.tensor([[0, 1]]), torch.zeros(1, 4), torch.tensor([2]))
    assert bench_solvers.score_error(oracle, result) == (None, None)


def test_equal_scores_stand_for_one_another():
    x = torch.randn(3, 8, generator=torch.Generator().manual_seed(0)).repeat(2, 1)
    x[[0, 3]] *= 10
    oracle = Oracle(x)
    kept = torch.tensor([[3]]), torch.tensor([[1]])
    best, other = ((None, k, None, None) for k in kept)
    assert bench_solvers.in_common(oracle, 1, best) == 1
    assert bench_solvers.in_common(oracle, 1, other) == 0


# Its tables and plot.


def test_cells_of_a_row():
    assert "| " + " | ".join(solvers_document.cells(ROW)) + " |" == LINE
    other = solvers_document.cells(
        row(solver="eigh", errors=dict.fromkeys(ROW["errors"]), stages=None)
    )
    assert other[3] == '"eigh" took over'
    assert other[5] == "-"
    assert other[-2] == "undefined"


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "stop at 95 of 576"),
        ({"steps": 576}, "all 576"),
        ({"refined": True}, "stop at 95 of 576, again in float64"),
        ({"steps": 576, "refined": True}, "all 576, again in float64"),
    ],
)
def test_the_outcome_of_the_certificate(changes, text):
    assert solvers_document.outcome(row(**changes)) == text


def test_random_weights_are_stated():
    def shown(name):
        return solvers_document.tables({"machine": MACHINE, "solvers": [row(features=name)]}, None)

    assert "**random weights**" in shown("coffee, ViT")
    assert "random weights" not in shown("flat")


def test_the_summary_names_the_worst():
    nothing = row(errors=dict.fromkeys(ROW["errors"]), allowed=dict.fromkeys(ROW["errors"]))
    bad = row(features="clusters", variance=0.99, errors={**ROW["errors"], "eigh": 1e-3})
    text = solvers_document.summary([ROW, bad, nothing])
    assert "the variances 0.9, 0.99," in text
    assert '"tridiag" 0.005 (flat, at 0.9), "eigh" 5 (clusters, at 0.99)' in text
    assert "0, 0, 3, 0 of 3" in text
    assert solvers_document.worst([nothing], "tridiag") is None


def test_the_tables_show_one_variance():
    result = {"machine": MACHINE, "solvers": [ROW, row(variance=0.8, features="other")]}
    text = solvers_document.tables(result, "a/b.png")
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert lines[2:] == [LINE]
    assert len({line.count("|") for line in lines}) == 1
    assert "Some CPU, 2 cores" in text
    assert text.endswith("(a/b.png)")
    assert "![" not in solvers_document.tables(result, None)


def test_the_command_writes_json_and_plot(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench_solvers, "suite", lambda: suite(24, 32, 40)[4:])
    monkeypatch.setattr(bench_solvers, "photographs", lambda: photographs(TOWER)[:1])
    out = tmp_path / "new" / "solvers.json"
    assert bench_solvers.main(["--quick", "--json", str(out)]) == 0
    result = json.loads(out.read_text())
    assert set(MACHINE) < set(result["machine"])
    assert {r["variance"] for r in result["solvers"]} == {0.9}
    assert [r["features"] for r in result["solvers"]][-1] == "astronaut, ViT"
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert "The solvers on the hard suite" in capsys.readouterr().out


# The README.


@pytest.fixture
def readme(tmp_path):
    machine = {"machine": MACHINE, "prune": [], "stages": []}
    solvers = {"machine": MACHINE, "solvers": [ROW]}
    return write_readme(tmp_path, "solvers", machine=machine, solvers=solvers)


def test_the_report_shows_the_study(readme):
    (readme.parent / "results" / "cpu" / "solvers.png").touch()
    assert run_report(readme, "--check") == 1
    assert run_report(readme) == 0
    assert run_report(readme, "--check") == 0
    text = readme.read_text()
    assert LINE in text
    assert "old" not in text
    assert "(results/cpu/solvers.png)\n<!-- bench:solvers:end -->\nafter\n" in text


def test_a_plot_that_is_not_there_is_not_shown(readme):
    assert run_report(readme) == 0
    assert LINE in readme.read_text()
    assert "![" not in readme.read_text()


def test_the_report_needs_neither_the_markers_nor_a_study(readme):
    readme.write_text(README)
    assert run_report(readme) == 0
    assert LINE not in readme.read_text()
    assert "bench:solvers" not in readme.read_text()

    (readme.parent / "results" / "cpu" / "solvers.json").unlink()
    readme.write_text(README + section("solvers"))
    assert run_report(readme) == 0
    assert "begin -->\n\n<!-- bench:solvers:end -->" in readme.read_text()


def test_a_study_alone_is_no_result(readme, capsys):
    (readme.parent / "results" / "cpu" / "machine.json").unlink()
    readme.write_text(section("cpu"))
    assert run_report(readme) == 2
    assert "svdprune bench --json" in capsys.readouterr().err
