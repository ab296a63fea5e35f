"""Intervals, marks and records of ``svdprune eval``, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from svdprune_ext.evaluation import markdown
from svdprune_ext.evaluation.bootstrap import Bootstrap, Tally, wilson
from svdprune_ext.evaluation.cells import Cell
from svdprune_ext.evaluation.records import Records, key_of
from svdprune_ext.tiny_vlm.questions import COMPOSITIONAL, KINDS


def record(**marks):
    length = len(next(iter(marks.values())))
    return {kind: marks.get(kind, "-" * length) for kind in KINDS}


def everywhere(line):
    return record(**dict.fromkeys(KINDS, line))


def test_wilsons_interval_against_published_values():
    # Newcombe 1998, table I: 81 of 263 and 0 of 20.
    some = wilson(81, 263)
    assert (round(some.low, 4), round(some.high, 4)) == (0.2553, 0.3662)
    none = wilson(0, 20)
    assert (none.low, round(none.high, 4)) == (0, 0.1611)
    assert math.isnan(wilson(0, 0).value)


def test_the_compositional_mean_weighs_kinds_alike():
    marks = record(**{kind: "1111" for kind in COMPOSITIONAL} | {"count": "1---", "colour": "0011"})
    accuracy = Bootstrap(4, resamples=50).accuracy(Tally.of([marks]))
    assert accuracy["compositional"].value == pytest.approx((len(COMPOSITIONAL) - 0.5) / 9)
    assert accuracy["colour"] == wilson(2, 4)
    assert math.isnan(accuracy["reading"].value)
    assert accuracy["reading"].to_json() == [None, None, None]


def test_resampling_keeps_an_images_questions_together():
    # Two kinds of image: all right, or all wrong. The mean of nine kinds then varies as one coin does.
    rng = np.random.default_rng(0)
    line = "".join("01"[int(bit)] for bit in rng.random(400) < 0.7)
    share = line.count("1") / 400
    mean = Bootstrap(400).accuracy(Tally.of([everywhere(line)]))["compositional"]
    half = 1.96 * math.sqrt(share * (1 - share) / 400)
    assert mean.value == pytest.approx(share)
    assert mean.high - mean.low == pytest.approx(2 * half, rel=0.1)


def test_a_difference_is_taken_image_by_image():
    line = "0110" * 25
    better = "1" + line[1:]
    bootstrap = Bootstrap(100)
    apart = bootstrap.difference(Tally.of([everywhere(better)]), Tally.of([everywhere(line)]))
    assert apart["reading"].value == pytest.approx(0.01)
    assert apart["reading"].low >= 0
    alone = bootstrap.accuracy(Tally.of([everywhere(better)]))["compositional"]
    assert apart["compositional"].high - apart["compositional"].low < alone.high - alone.low


def test_seeds_are_pooled_into_one_answer():
    tally = Tally.of([everywhere("10"), everywhere("00"), everywhere("11")])
    assert tally.right[:, 0].tolist() == pytest.approx([2 / 3, 1 / 3])
    assert tally.asked.sum(0).tolist() == [2.0] * len(KINDS)


@pytest.mark.parametrize(
    ("apart", "mark"),
    [
        ([0.1, 0.02, 0.2], " *"),
        ([-0.1, -0.2, -0.01], " °"),
        ([0.1, -0.1, 0.3], ""),
        ([None] * 3, ""),
    ],
)
def test_marks_say_what_is_beyond_chance(apart, mark):
    assert markdown.mark({"less_reference": {"reading": apart}}, "reading") == mark
    assert markdown.mark({}, "reading") == ""


def test_records_are_found_by_all_that_determines_them(tmp_path):
    path = tmp_path / "records.jsonl"
    around = {"model": "a", "exam": "b", "images": 2}
    key = key_of(Cell(16, {"options": {"seed": 0}}), around)
    Records(path).add(key, {"kept": 16.0})
    again = Records(path)
    assert again.find(key) == {"key": key, "kept": 16.0}
    for cell, other in (
        (Cell(32, {"options": {"seed": 0}}), around),
        (Cell(16, {"options": {"seed": 1}}), around),
        (Cell(16, {"options": {"seed": 0}}, scored_layer=-1), around),
        (Cell(16, {"options": {"seed": 0}}), {**around, "model": "c"}),
    ):
        assert again.find(key_of(cell, other)) is None
    with path.open("a") as file:
        file.write('{"key": 1')
    Records(path).add(key_of(Cell(8), around), {"kept": 8.0})
    assert len(Records(path)) == 2
