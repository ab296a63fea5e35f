"""The three splits, and what the test split holds that training never sees.

Held out of training and validation: one shape of each colour (six of the 36 pairs), 76 words, a seventh of
the numbers, and three of the eighteen type faces.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from svdprune_ext.tiny_vlm import glyphs, words

_COLOURS, _SHAPES = 6, 6
_LETTERS, _DIGITS = glyphs.CHARACTERS[:26], glyphs.CHARACTERS[26:]


def is_test_pair(colour: int, shape: int) -> bool:
    """Tells whether a colour (index) with a shape (index) occurs in the test split alone."""
    return (colour + shape) % _SHAPES == 4


def is_test_number(number: str) -> bool:
    """Tells whether a number (its digits) occurs in the test split alone."""
    return int(number) % 7 == 3


@dataclass(frozen=True)
class Split:
    """What may occur in the images of a split.

    Attributes:
        name: "train", "validation" or "test".
        seed: First part of the seed of its images; the second is the image's number.
        faces: Type faces of its signs.
        words: Words of its signs.
        held_out: Whether its numbers, and half of its colour-shape pairs, are those that training never sees.
        any_letters: Share of its signs that say random letters, no word; they are never a word held out.
    """

    name: str
    seed: int
    faces: tuple[str, ...]
    words: tuple[str, ...]
    held_out: bool
    any_letters: float

    def sample_pair(self, rng: np.random.Generator) -> tuple[int, int]:
        """Returns a colour and a shape (indices) that may occur together."""
        wanted = self.held_out and bool(rng.random() < 0.5)
        while True:
            colour, shape = int(rng.integers(_COLOURS)), int(rng.integers(_SHAPES))
            if is_test_pair(colour, shape) == wanted:
                return colour, shape

    def sample_text(self, rng: np.random.Generator) -> str:
        """Returns a word, or in a third of the cases a number."""
        if rng.random() < 1 / 3:
            return self._sample_number(rng)
        if rng.random() >= self.any_letters:
            return self.words[int(rng.integers(len(self.words)))]
        while True:
            text = "".join(_LETTERS[i] for i in rng.integers(26, size=int(rng.integers(2, 5))))
            if text not in words.TEST_WORDS:
                return text

    def _sample_number(self, rng: np.random.Generator) -> str:
        while True:
            digits = rng.integers(10, size=int(rng.integers(2, 5)))
            number = "".join(_DIGITS[i] for i in digits)
            if is_test_number(number) == self.held_out:
                return number


TRAIN = Split("train", 1, glyphs.TRAIN_FACES, words.TRAIN_WORDS, False, 0.6)
VALIDATION = Split("validation", 2, glyphs.TRAIN_FACES, words.TRAIN_WORDS, False, 0.0)
TEST = Split("test", 3, glyphs.TEST_FACES, words.TEST_WORDS, True, 0.0)
SPLITS = {split.name: split for split in (TRAIN, VALIDATION, TEST)}
