"""What an image shows, before it is drawn: coloured things, and sometimes a sign."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from svdprune_ext.tiny_vlm import glyphs
from svdprune_ext.tiny_vlm.splits import Split

SIDE = 96  # pixels
COLOURS = ("red", "green", "blue", "yellow", "purple", "cyan")
SHAPES = ("circle", "square", "triangle", "diamond", "cross", "ring")

_RADII = (8, 13)  # pixels, both included
_APART = 2  # pixels between two things, and between a thing and the sign
_MOST_THINGS = 5
_SIGN_SHARE = 0.6
_SIGN_BORDER = 3  # pixels of plate around the text
_TRIES = 60


@dataclass(frozen=True)
class Thing:
    """A coloured shape.

    Attributes:
        colour: Index into ``COLOURS``.
        shape: Index into ``SHAPES``.
        x: Column of its centre, in pixels from the left.
        y: Row of its centre, in pixels from the top.
        radius: Half its extent in pixels.
    """

    colour: int
    shape: int
    x: int
    y: int
    radius: int

    @property
    def name(self) -> str:
        """Colour and shape, as questions call it."""
        return f"{COLOURS[self.colour]} {SHAPES[self.shape]}"


@dataclass(frozen=True)
class Sign:
    """A plate with a word or a number.

    Attributes:
        text: Two to four capital letters or digits.
        face: One of ``glyphs.FACES``.
        size: 0, 1 or 2, as in the atlas.
        spacing: Pixels between two characters.
        x: Left edge of the first character, in pixels.
        y: Top edge of the text, in pixels.
    """

    text: str
    face: str
    size: int
    spacing: int
    x: int
    y: int

    @property
    def cells(self) -> tuple[tuple[int, int], ...]:
        """Left and right edge (excluded) of each character's own columns, half the spacing on each side."""
        edges, left = [], self.x
        for width in self.widths:
            edges.append((left - self.spacing // 2, left + width + (self.spacing + 1) // 2))
            left += width + self.spacing
        return tuple(edges)

    @property
    def widths(self) -> tuple[int, ...]:
        """Width of each character's ink in pixels."""
        atlas = glyphs.glyphs(self.face, self.size)
        return tuple(atlas[glyphs.CHARACTERS.index(character)].shape[1] for character in self.text)

    @property
    def height(self) -> int:
        """Height of the text in pixels."""
        return int(glyphs.glyphs(self.face, self.size)[0].shape[0])

    @property
    def plate(self) -> tuple[int, int, int, int]:
        """Left, top, right and bottom edge of the plate (the last two excluded)."""
        right = self.x + sum(self.widths) + self.spacing * (len(self.text) - 1)
        return (
            self.x - _SIGN_BORDER,
            self.y - _SIGN_BORDER,
            right + _SIGN_BORDER,
            self.y + self.height + _SIGN_BORDER,
        )


@dataclass(frozen=True)
class Scene:
    """The contents of one image: two to five things that do not touch, and a sign or none."""

    things: tuple[Thing, ...]
    sign: Sign | None


def sample_scene(rng: np.random.Generator, split: Split) -> Scene:
    """Draws a scene's contents.

    Args:
        rng: Source of every choice.
        split: Which colour-shape pairs, texts and faces may occur.

    Returns:
        The scene.
    """
    sign = sample_sign(rng, split) if rng.random() < _SIGN_SHARE else None
    wanted = int(rng.integers(2, _MOST_THINGS + 1))
    things: list[Thing] = []
    for _ in range(_TRIES):
        if len(things) == wanted:
            break
        radius = int(rng.integers(_RADII[0], _RADII[1] + 1))
        x, y = (int(v) for v in rng.integers(radius + 1, SIDE - radius, 2))
        if _is_free(x, y, radius, things, sign):
            colour, shape = split.sample_pair(rng)
            things.append(Thing(colour, shape, x, y, radius))
    return Scene(tuple(things), sign) if len(things) >= 2 else sample_scene(rng, split)


def sample_sign(rng: np.random.Generator, split: Split) -> Sign:
    """Draws a sign that lies inside the image; arguments as of ``sample_scene``."""
    text = split.sample_text(rng)
    face = split.faces[int(rng.integers(len(split.faces)))]
    size = int(rng.integers(glyphs.SIZES))
    at_origin = Sign(text, face, size, int(rng.integers(3, 5)), 0, 0)
    left, top, right, bottom = at_origin.plate
    if right - left > SIDE - 2:
        return sample_sign(rng, split)
    x = int(rng.integers(1 - left, SIDE - right))
    y = int(rng.integers(1 - top, SIDE - bottom))
    return Sign(text, face, size, at_origin.spacing, x, y)


def _is_free(x: int, y: int, radius: int, things: list[Thing], sign: Sign | None) -> bool:
    for thing in things:
        reach = radius + thing.radius + _APART
        if max(abs(x - thing.x), abs(y - thing.y)) < reach:
            return False
    if sign is None:
        return True
    left, top, right, bottom = sign.plate
    reach = radius + _APART
    return not (left - reach < x < right + reach and top - reach < y < bottom + reach)
