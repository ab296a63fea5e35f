"""The tiny VLM as a checkpoint, with untrained weights, and the evaluation of its answers."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoProcessor, LlavaForConditionalGeneration, LlavaProcessor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import svdprune_ext
from bench.tiny_vlm.build import build_model, build_processor
from bench.tiny_vlm.train import save
from svdprune_ext import tiny_vlm
from svdprune_ext.tiny_vlm.evaluation import Answer, Evaluation
from svdprune_ext.tiny_vlm.questions import Question


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    torch.manual_seed(0)
    save(build_model(), build_processor(), folder)
    return folder


@pytest.fixture(scope="module")
def loaded(folder):
    return tiny_vlm.load(folder)


def test_it_is_an_ordinary_llava_checkpoint(loaded, folder):
    model, processor = loaded
    assert type(model) is LlavaForConditionalGeneration
    assert type(processor) is LlavaProcessor
    assert type(AutoProcessor.from_pretrained(folder)) is LlavaProcessor
    assert not model.training
    assert model.dtype == torch.float32


def test_the_file_is_small_and_in_float16(folder):
    path = folder / "model.safetensors"
    assert path.stat().st_size <= 8e6
    with safe_open(path, "pt") as tensors:
        assert {tensors.get_tensor(name).dtype for name in tensors.keys()} == {torch.float16}  # noqa: SIM118


def test_a_folder_without_a_checkpoint_is_refused(tmp_path):
    with pytest.raises(ValueError, match="folder must hold a checkpoint, got"):
        tiny_vlm.load(tmp_path)


def test_it_answers_with_pruned_tokens(loaded):
    model, processor = loaded
    with svdprune_ext.apply(model, keep=64) as handle:
        pruned = tiny_vlm.evaluate(model, processor, tiny_vlm.TEST, images=4, batch=16)
        assert handle.last.num_kept == (64,) * len(handle.last.num_kept)
    whole = tiny_vlm.evaluate(model, processor, tiny_vlm.TEST, images=4)
    assert [a.question for a in pruned.answers] == [a.question for a in whole.answers]


def test_evaluating_in_batches_changes_no_answer(loaded):
    small = tiny_vlm.evaluate(*loaded, tiny_vlm.VALIDATION, images=3, batch=5)
    assert small == tiny_vlm.evaluate(*loaded, tiny_vlm.VALIDATION, images=3, batch=64)


def test_evaluate_refuses_no_images(loaded):
    with pytest.raises(ValueError, match="images must be at least 1, got 0"):
        tiny_vlm.evaluate(*loaded, tiny_vlm.TEST, images=0)


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
