"""Many questions about one image in one sequence.

The image's tokens come first, then question after question, each with its answer. A block mask lets a
question see the image and itself alone, and its positions go on from the image's, so that it is computed as
if it were asked by itself. One pass over the image then serves some twenty questions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.tiny_vlm.build import GRID, PATCH, TOKENS
from svdprune_ext.tiny_vlm.questions import Question
from svdprune_ext.tiny_vlm.samples import Sample
from svdprune_ext.tiny_vlm.scenes import Scene

IGNORED = -100
NOWHERE = GRID  # beside the columns and rows of patches
PREFIX = 1 + TOKENS  # <s> and the image
# How many questions of each kind about an image, at most: relations are what takes longest to learn.
QUOTA = {
    "colour": 2,
    "shape": 2,
    "count": 1,
    "count with attribute": 4,
    "existence": 4,
    "where": 2,
    "relation, yes or no": 4,
    "relation, which of two": 4,
    "query by relation": 3,
    "sign or none": 1,
    "read the sign": 1,
}


@dataclass(frozen=True)
class Packed:
    """Questions about a batch of images.

    Attributes:
        ids: Token ids after the prefix ``[n, length]``.
        positions: Their positions ``[n, length]``.
        owner: Number of the question a token belongs to, from 1; 0 is padding ``[n, length]``.
        labels: The next token where it belongs to an answer, else ``IGNORED`` ``[n, length]``.
        kinds: Index into ``QUOTA``'s kinds of each question ``[n, questions]``, by owner - 1; -1 is none.
        things: Column and row, in patches, of the thing that a token names last; ``NOWHERE`` twice if there
            is no such thing, -1 if it names none ``[n, length, 2]``.
    """

    ids: Tensor
    positions: Tensor
    owner: Tensor
    labels: Tensor
    kinds: Tensor
    things: Tensor

    def mask(self) -> Tensor:
        """Who sees whom, prefix included: 0 or -inf ``[n, 1, PREFIX + length, PREFIX + length]``."""
        prefix = torch.zeros(len(self.owner), PREFIX, dtype=self.owner.dtype)
        owner = torch.cat([prefix, self.owner], dim=1)
        of_prefix = torch.arange(owner.shape[1]) < PREFIX
        seen = (owner[:, :, None] == owner[:, None, :]) | of_prefix
        seen &= torch.ones(seen.shape[1:], dtype=torch.bool).tril()
        return torch.where(seen, 0.0, -torch.inf)[:, None]


class Packer:
    """Turns samples into packed questions."""

    def __init__(self, tokenizer: Any, length: int) -> None:
        """Takes the model's tokenizer and the number of tokens after the prefix."""
        self._tokenizer = tokenizer
        self._length = length
        self._known: dict[str, list[int]] = {}

    def pack(self, samples: list[Sample], rng: np.random.Generator) -> Packed:
        """Packs some questions about each sample, chosen by ``rng`` within ``QUOTA``."""
        shape = (len(samples), self._length)
        ids = np.zeros(shape, dtype=np.int64)
        positions = np.zeros(shape, dtype=np.int64)
        owner = np.zeros(shape, dtype=np.int64)
        labels = np.full(shape, IGNORED, dtype=np.int64)
        kinds = np.full((len(samples), sum(QUOTA.values())), -1, dtype=np.int64)
        things = np.full((*shape, 2), -1, dtype=np.int64)
        for row, sample in enumerate(samples):
            at = 0
            for number, question in enumerate(_choose(sample.questions, rng)):
                asked, answer = self._ids(question.text), self._ids(question.answer, end=True)
                end = at + len(asked) + len(answer)
                if end > self._length:
                    break
                ids[row, at:end] = asked + answer
                positions[row, at:end] = np.arange(PREFIX, PREFIX + end - at)
                owner[row, at:end] = number + 1
                labels[row, at + len(asked) - 1 : end - 1] = answer
                kinds[row, number] = list(QUOTA).index(question.kind)
                for word, index in question.mentions:
                    things[row, at + word] = _place(sample.scene, index)
                at = end
        arrays = (ids, positions, owner, labels, kinds, things)
        return Packed(*(torch.from_numpy(array) for array in arrays))

    def _ids(self, text: str, end: bool = False) -> list[int]:
        if text not in self._known:
            self._known[text] = self._tokenizer.encode(text, add_special_tokens=False)
        return self._known[text] + ([self._tokenizer.eos_token_id] if end else [])


def _place(scene: Scene, index: int | None) -> tuple[int, int]:
    if index is None:
        return NOWHERE, NOWHERE
    return scene.things[index].x // PATCH, scene.things[index].y // PATCH


def _choose(questions: tuple[Question, ...], rng: np.random.Generator) -> list[Question]:
    left = dict(QUOTA)
    chosen = []
    for index in rng.permutation(len(questions)):
        question = questions[index]
        if left[question.kind] > 0:
            left[question.kind] -= 1
            chosen.append(question)
    return [chosen[index] for index in rng.permutation(len(chosen))]
