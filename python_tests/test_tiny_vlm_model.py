"""The shipped tiny VLM: what it is, and that it answers."""

from __future__ import annotations

import math

import pytest
import torch
from safetensors import safe_open
from transformers import AutoProcessor, LlavaForConditionalGeneration, LlavaProcessor

import svdprune_ext
from svdprune_ext import tiny_vlm
from svdprune_ext.tiny_vlm.evaluation import Answer, Evaluation
from svdprune_ext.tiny_vlm.questions import Question


@pytest.fixture(scope="module")
def shipped():
    return tiny_vlm.load()


def test_it_is_an_ordinary_llava_checkpoint(shipped):
    model, processor = shipped
    assert type(model) is LlavaForConditionalGeneration
    assert type(processor) is LlavaProcessor
    assert type(AutoProcessor.from_pretrained(tiny_vlm.FOLDER)) is LlavaProcessor
    assert not model.training
    assert model.dtype == torch.float32


def test_the_file_is_small_and_in_float16():
    path = tiny_vlm.FOLDER / "model.safetensors"
    assert path.stat().st_size <= 8e6
    with safe_open(path, "pt") as tensors:
        assert {tensors.get_tensor(name).dtype for name in tensors.keys()} == {torch.float16}  # noqa: SIM118


def test_it_answers_held_out_questions(shipped):
    result = tiny_vlm.evaluate(*shipped, tiny_vlm.TEST, images=20)
    # Far above guessing (0.3 and 0), with room for 20 images' scatter; the model card has the figures.
    assert result.compositional.share > 0.75
    assert result.reading.share > 0.6


def test_it_answers_with_pruned_tokens(shipped):
    model, processor = shipped
    with svdprune_ext.apply(model, keep=64) as handle:
        pruned = tiny_vlm.evaluate(model, processor, tiny_vlm.TEST, images=4, batch=16)
        assert handle.last.indices.shape[-1] == 64
    whole = tiny_vlm.evaluate(model, processor, tiny_vlm.TEST, images=4)
    assert [a.question for a in pruned.answers] == [a.question for a in whole.answers]
    assert pruned.answers != whole.answers


def test_evaluating_in_batches_changes_no_answer(shipped):
    small = tiny_vlm.evaluate(*shipped, tiny_vlm.VALIDATION, images=3, batch=5)
    assert small == tiny_vlm.evaluate(*shipped, tiny_vlm.VALIDATION, images=3, batch=64)


def test_evaluate_refuses_no_images(shipped):
    with pytest.raises(ValueError, match="images must be at least 1, got 0"):
        tiny_vlm.evaluate(*shipped, tiny_vlm.TEST, images=0)


def test_accuracy_by_hand():
    count = Question("count", "how many things are there ?", "two")
    where = Question("where", "where is the red ring ?", "top left")
    given = [(count, "two"), (count, "two"), (count, "two"), (count, "one"), (where, "top")]
    result = Evaluation(tuple(Answer(0, question, answer) for question, answer in given))
    accuracy = result.accuracy("count")
    assert (accuracy.share, accuracy.questions) == (0.75, 4)
    assert accuracy.error == pytest.approx(math.sqrt(0.75 * 0.25 / 4))
    assert result.accuracy("where").share == 0
    assert math.isnan(result.reading.share)
    assert "| count | 0.750 |" in result.table()
