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

_PART = 100  # images
_Made = tuple[int, NDArray[np.uint8], Question]  # the image's number, the image, a question


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
class Part:
    """Some of the images with all their questions.

    Attributes:
        images: Their numbers, in order.
        batches: The questions as the model is given them.
    """

    images: range
    batches: tuple[Batch, ...]


@dataclass(frozen=True)
class Exam:
    """One question of each kind about each image, where the kind has one.

    Attributes:
        split: Name of the split.
        asked: Number of the image, and the question.
        pixels: What the processor makes of the images [images, 3, height, width].
        parts: Images and questions in the order of the images.
        prefix: How every prompt begins, up to the image's last token [P].
        digest: SHA-256 of pixels, prompts and right answers.
    """

    split: str
    asked: tuple[tuple[int, Question], ...]
    pixels: Tensor
    parts: tuple[Part, ...]
    prefix: Tensor
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
        ValueError: A number is below 1, or the prompts do not begin alike.
    """
    for name, value in (("images", images), ("batch", batch)):
        if value < 1:
            raise ValueError(f"prepare: {name} must be at least 1, got {value}")
    made = list(asked_of(split, images, per_kind=1))
    pixels: dict[int, Tensor] = {}
    parts = []
    for first in range(0, images, _PART):
        numbers = range(first, min(first + _PART, images))
        batches = [
            _batch(processor, made, places[start : start + batch], pixels)
            for places in _alike(processor, made, numbers)
            for start in range(0, len(places), batch)
        ]
        parts.append(Part(numbers, tuple(batches)))
    ordered = torch.stack([pixels[number] for number in range(images)])
    asked = tuple((number, question) for number, _, question in made)
    prefix = _prefix(processor, [batch for part in parts for batch in part.batches])
    return Exam(split.name, asked, ordered, tuple(parts), prefix, _digest(ordered, asked))


def _alike(processor: Any, made: list[_Made], images: range) -> list[list[int]]:
    """Places of questions with as many tokens, and as many in the answer: the longest delays a batch."""
    groups: dict[tuple[int, int], list[int]] = {}
    for place, (number, _, question) in enumerate(made):
        if number in images:
            texts = (question.text, question.answer)
            tokens, to_come = (len(processor.tokenizer.encode(text)) for text in texts)
            groups.setdefault((tokens, to_come), []).append(place)
    return [groups[key] for key in sorted(groups)]


def _prefix(processor: Any, batches: list[Batch]) -> Tensor:
    """The tokens up to the image's last, the same of all prompts."""
    ids = batches[0].input_ids[0]
    prefix = ids[: int((ids == processor.image_token_id).nonzero().max()) + 1]
    for batch in batches:
        if not (batch.input_ids[:, : len(prefix)] == prefix).all():
            raise ValueError(
                "prepare: processor must begin all prompts alike, up to the image's last token"
            )
    return prefix


def _batch(
    processor: Any,
    made: list[_Made],
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
