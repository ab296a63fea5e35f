"""The images and questions of an evaluation, prepared once for all cells."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from svdprune_ext.tiny_vlm.evaluation import asked_of, prompt
from svdprune_ext.tiny_vlm.questions import Question
from svdprune_ext.tiny_vlm.splits import Split


@dataclass(frozen=True)
class Batch:
    """Questions of the same length, so that none is padded, whose answers end about the same time.

    Attributes:
        places: Their places in ``Exam.asked``.
        images: Numbers of their images, int64 [n].
        input_ids: What the processor makes of the prompts [n, L].
        attention_mask: Likewise [n, L].
    """

    places: list[int]
    images: Tensor
    input_ids: Tensor
    attention_mask: Tensor


@dataclass(frozen=True)
class Exam:
    """One question of each kind about each image, where the kind has one.

    Attributes:
        split: Name of the split.
        asked: Number of the image, and the question.
        pixels: What the processor makes of the images [images, 3, height, width].
        batches: The questions as the model is given them.
        digest: SHA-256 of pixels, prompts and right answers.
    """

    split: str
    asked: tuple[tuple[int, Question], ...]
    pixels: Tensor
    batches: tuple[Batch, ...]
    digest: str


def prepare(processor: Any, split: Split, images: int, batch: int = 128) -> Exam:
    """Puts the questions of ``tiny_vlm.evaluate(..., images, per_kind=1)`` through the processor.

    Args:
        processor: A ``LlavaProcessor``.
        split: One of ``tiny_vlm.SPLITS``.
        images: How many images, from number 0 on.
        batch: Questions a call of ``generate``, at most.

    Returns:
        The exam.

    Raises:
        ValueError: A number is below 1.
    """
    for name, value in (("images", images), ("batch", batch)):
        if value < 1:
            raise ValueError(f"prepare: {name} must be at least 1, got {value}")
    made = list(asked_of(split, images, per_kind=1))
    pixels: dict[int, Tensor] = {}
    batches = []
    for places in _alike(processor, [question for _, _, question in made]):
        for start in range(0, len(places), batch):
            batches.append(_batch(processor, made, places[start : start + batch], pixels))
    ordered = torch.stack([pixels[number] for number in range(images)])
    asked = tuple((number, question) for number, _, question in made)
    return Exam(split.name, asked, ordered, tuple(batches), _digest(ordered, asked))


def _alike(processor: Any, questions: list[Question]) -> list[list[int]]:
    """Places of questions with as many tokens, and as many in the answer: the longest delays a batch."""
    groups: dict[tuple[int, int], list[int]] = {}
    for place, question in enumerate(questions):
        texts = (question.text, question.answer)
        tokens, to_come = (len(processor.tokenizer.encode(text)) for text in texts)
        groups.setdefault((tokens, to_come), []).append(place)
    return [groups[key] for key in sorted(groups)]


def _batch(
    processor: Any,
    made: list[tuple[int, NDArray[np.uint8], Question]],
    places: list[int],
    pixels: dict[int, Tensor],
) -> Batch:
    """Prepares one batch, and adds the images met first to ``pixels``."""
    numbers, images, questions = zip(*(made[place] for place in places), strict=True)
    inputs = processor(
        images=list(images),
        text=[prompt(question.text) for question in questions],
        return_tensors="pt",
    )
    for number, values in zip(numbers, inputs["pixel_values"], strict=True):
        pixels.setdefault(number, values.clone())
    return Batch(places, torch.tensor(numbers), inputs["input_ids"], inputs["attention_mask"])


def _digest(pixels: Tensor, asked: tuple[tuple[int, Question], ...]) -> str:
    digest = hashlib.sha256(pixels.numpy().tobytes())
    for number, question in asked:
        digest.update(f"{number}\t{question.kind}\t{question.text}\t{question.answer}\n".encode())
    return digest.hexdigest()
