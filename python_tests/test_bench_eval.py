"""The documents' sections on answers: what the tables and sentences say of given results."""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import eval_document, gpu_document, sections
from svdprune_ext.tiny_vlm import KINDS

FLAT = [0.5, 0.4, 0.6]


def accuracy(share):
    interval = [share, share - 0.1, share + 0.1]
    return {"compositional": interval, "reading": interval, **dict.fromkeys(KINDS, interval)}


def row(series, keep, share, apart=None, group="methods", **more):
    made = {"series": series, "group": group, "keep": keep, "kept": float(keep), "adaptive": False}
    made |= {"energy": share, "accuracy": accuracy(share), **more}
    if apart is not None:
        made["less_reference"] = dict.fromkeys(made["accuracy"], apart)
    return made


def summary(rows):
    return {
        "model_name": "some model",
        "dtype": "float32",
        "device": "cpu",
        "images": 7,
        "split": "test",
        "questions": dict.fromkeys(KINDS, 7),
        "intervals": "95 %",
        "svdprune_ext": "0.1.0",
        "torch": "2.13.0",
        "transformers": "5.23.0",
        "date": "2026-01-01",
        "reference": "SVD leverage",
        "unpruned": {"kept": 144.0, "accuracy": accuracy(0.9)},
        "rows": rows,
    }


METHODS = summary(
    [
        row("SVD leverage", 32, 0.5),
        row("SVD leverage", 16, 0.4),
        row("diverse", 16, 0.6, [0.2, 0.1, 0.3]),
        row("random", 16, 0.1, [-0.3, -0.4, -0.2]),
        row("grid", 16, 0.41, [0.01, -0.1, 0.1]),
    ]
)


def test_wins_and_losses_are_those_beyond_chance():
    text = eval_document.methods(METHODS)
    assert "- Reading, 16 tokens: ahead of random (+0.30); behind diverse (-0.20)." in text
    assert "- Reading, 32 tokens: ahead of none; behind none." in text
    assert "| diverse |  | 0.60 (0.50-0.70) * |" in text
    assert "with 16 tokens SVD leverage 0.40, number 3 of 4 (most 0.60, diverse; least 0.10" in text
    assert "compositional 0.90 (0.80-1.00)" in text


def test_the_overview_has_a_column_for_each_kind_and_budget():
    text = eval_document.overview(METHODS, "plot.png")
    assert "|  | compositional, 32 | compositional, 16 | reading, 32 | reading, 16 |" in text
    assert "| diverse |  | 0.60 (0.50-0.70) * |  | 0.60 (0.50-0.70) * |" in text
    assert "](plot.png)" in text
    assert "![" not in eval_document.overview(METHODS, None)


def test_ablations_stand_beside_their_reference_and_budgets_beside_each_other():
    rows = [
        row("as in the paper", 16, 0.4, group="cut"),
        row("half", 16, 0.2, [-0.2, -0.3, -0.1], group="cut"),
        row("coverage 0.5", 144, 0.5, FLAT, group="budget", adaptive=True, kept=9.7),
        row("fixed, 10 tokens", 10, 0.3, group="budget"),
    ]
    rows[2]["adaptive"] = True
    text = eval_document.ablations(summary(rows))
    assert "| half |  | 0.20 (0.10-0.30) ° |  | 0.20 (0.10-0.30) ° |" in text
    assert "| coverage 0.5 | 9.7 | 0.50 (0.40-0.60) * | 0.50 (0.40-0.60) * |" in text
    assert text.index("coverage 0.5") < text.index("| fixed, 10 tokens | 10.0 |")


def test_the_documents_sections_follow_the_results(tmp_path):
    folder = tmp_path / "results" / "eval"
    for section in (sections.answers, sections.all_answers):
        assert section(tmp_path / "results", tmp_path) == []
    folder.mkdir(parents=True)
    (folder / "methods.json").write_text(json.dumps(METHODS))
    (folder / "methods.png").write_bytes(b"")
    (text,) = sections.answers(tmp_path / "results", tmp_path / "docs")
    assert "(../results/eval/methods.png)" in text
    assert sections.all_answers(tmp_path / "results", tmp_path) == [eval_document.methods(METHODS)]
    assert sections.gpu(tmp_path / "results", tmp_path) == [gpu_document.UNMEASURED]
