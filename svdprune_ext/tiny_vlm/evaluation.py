"""How many questions of each kind a model answers right."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from svdprune_ext.tiny_vlm.questions import COMPOSITIONAL, KINDS, READING, Question
from svdprune_ext.tiny_vlm.samples import sample
from svdprune_ext.tiny_vlm.splits import Split

LONGEST_ANSWER = 5  # tokens: four characters and the end


@dataclass(frozen=True)
class Answer:
    """What a model answered.

    Attributes:
        image: Number of the image in its split.
        question: With the right answer.
        given: The model's.
    """

    image: int
    question: Question
    given: str

    @property
    def right(self) -> bool:
        """Whether the answer is the right one, letter for letter."""
        return self.given == self.question.answer


@dataclass(frozen=True)
class Accuracy:
    """A share of right answers.

    Attributes:
        share: In [0, 1].
        error: Standard error of ``share``; questions about one image count as independent.
        questions: How many were asked.
    """

    share: float
    error: float
    questions: int


@dataclass(frozen=True)
class Evaluation:
    """Every answer of an evaluation."""

    answers: tuple[Answer, ...]

    def accuracy(self, kind: str) -> Accuracy:
        """Returns the accuracy on one of ``questions.KINDS``."""
        right = [answer.right for answer in self.answers if answer.question.kind == kind]
        share = sum(right) / len(right) if right else math.nan
        error = math.sqrt(share * (1 - share) / len(right)) if right else math.nan
        return Accuracy(share, error, len(right))

    @property
    def compositional(self) -> Accuracy:
        """The mean over the compositional kinds, each with the same weight."""
        return self._mean(COMPOSITIONAL)

    @property
    def reading(self) -> Accuracy:
        """The accuracy on reading signs: the whole text right."""
        return self._mean(READING)

    def table(self) -> str:
        """Returns a Markdown table: kind, accuracy, standard error, questions."""
        rows = [(kind, self.accuracy(kind)) for kind in KINDS]
        rows += [("**compositional (mean)**", self.compositional), ("**reading**", self.reading)]
        head = "| questions | accuracy | standard error | asked |\n|---|---|---|---|\n"
        return head + "\n".join(
            f"| {name} | {a.share:.3f} | {a.error:.3f} | {a.questions} |" for name, a in rows
        )

    def _mean(self, kinds: tuple[str, ...]) -> Accuracy:
        parts = [self.accuracy(kind) for kind in kinds]
        share = sum(part.share for part in parts) / len(parts)
        error = math.sqrt(sum(part.error**2 for part in parts)) / len(parts)
        return Accuracy(share, error, sum(part.questions for part in parts))


def evaluate(
    model: Any,
    processor: Any,
    split: Split,
    images: int = 300,
    per_kind: int = 1,
    batch: int = 64,
) -> Evaluation:
    """Asks a model about the images of a split, through its processor and ``generate``.

    Anything done to the model before, such as ``svdprune_ext.apply``, is in force.

    Args:
        model: A ``LlavaForConditionalGeneration`` that knows these questions.
        processor: Its ``LlavaProcessor``.
        split: One of ``splits.SPLITS``.
        images: How many images, from number 0 on.
        per_kind: How many questions of each kind about an image, at most.
        batch: Questions a call of ``generate``.

    Returns:
        The answers, image by image.

    Raises:
        ValueError: A number is below 1.
    """
    for name, value in (("images", images), ("per_kind", per_kind), ("batch", batch)):
        if value < 1:
            raise ValueError(f"evaluate: {name} must be at least 1, got {value}")
    answers: list[Answer] = []
    asked = list(asked_of(split, images, per_kind))
    for start in range(0, len(asked), batch):
        group = asked[start : start + batch]
        given = answer_all(
            model, processor, [(image, question.text) for _, image, question in group]
        )
        for (number, _, question), text in zip(group, given, strict=True):
            answers.append(Answer(number, question, text))
    return Evaluation(tuple(answers))


def prompt(question: str) -> str:
    """Returns what the model is given: the image's place, then the question."""
    return f"<image> {question}"


def asked_of(
    split: Split, images: int, per_kind: int
) -> Iterator[tuple[int, NDArray[np.uint8], Question]]:
    """Yields what ``evaluate`` asks: the image's number, the image, and a question about it."""
    for number in range(images):
        made = sample(split, number)
        rng = np.random.default_rng((split.seed, number, 1))
        left = dict.fromkeys(KINDS, per_kind)
        for index in rng.permutation(len(made.questions)):
            question = made.questions[index]
            if left[question.kind] > 0:
                left[question.kind] -= 1
                yield number, made.image, question


@torch.inference_mode()
def answer_all(model: Any, processor: Any, asked: list[tuple[Any, str]]) -> list[str]:
    """Asks questions about an image each (an array or a PIL image), greedily, in one call of ``generate``."""
    inputs = processor(
        images=[image for image, _ in asked],
        text=[prompt(text) for _, text in asked],
        padding=True,
        return_tensors="pt",
    ).to(model.device, model.dtype)
    output = model.generate(**inputs, max_new_tokens=LONGEST_ANSWER, do_sample=False)
    new = output[:, inputs["input_ids"].shape[1] :]
    return [text.strip() for text in processor.batch_decode(new, skip_special_tokens=True)]
