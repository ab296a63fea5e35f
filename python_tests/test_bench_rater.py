"""The benchmark of ``rater_scores``: its competitors compute the same; no time is asserted."""

import json
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import bench_rater
from bench.bench_rater import Layer, candidates, table

SMALL = Layer(prompts=2, heads=3, tokens=20, width=8, vision=10, raters=4, first_vision=2)


def test_the_competitors_return_the_raters_attention():
    runs = candidates(SMALL)
    rows = [run() for name, run in runs.items() if "own" not in name]
    assert [row.shape for row in rows] == [(2, 4, 10)] * 3
    for row in rows[1:]:
        torch.testing.assert_close(row, rows[0], rtol=1e-4, atol=1e-7)


def test_the_table_has_medians_and_ratios():
    lines = table({"rater_scores": [1e-3, 3e-3, 2e-3], "other": [5e-3]}).splitlines()
    assert lines[2:] == ["| rater_scores | 2 ms | 1.00 |", "| other | 5 ms | 2.50 |"]


def test_the_command_writes_what_it_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench_rater, "Layer", lambda: SMALL)
    file = tmp_path / "rater.json"
    bench_rater.main(["--json", str(file), "--seconds", "0.01"])
    written = json.loads(file.read_text())
    assert written["layer"]["raters"] == 4
    assert set(written["seconds"]) == set(candidates(SMALL))
    assert "whole attention" in capsys.readouterr().out
