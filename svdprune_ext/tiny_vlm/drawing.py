"""From a scene to pixels.

Only integers, comparisons, the four operations and square roots, whose results IEEE 754 fixes: the same bytes
on every machine.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from svdprune_ext.tiny_vlm import glyphs
from svdprune_ext.tiny_vlm.scenes import SIDE, Scene, Sign, Thing

_RGB = np.array(
    [[205, 40, 40], [45, 160, 60], [45, 80, 205], [225, 200, 40], [150, 50, 180], [50, 195, 205]],
    dtype=np.float32,
)
_JITTER = 22  # of a thing's colour, each channel, either way
_COARSE = 7  # knots of the background's slow waves along a side
_NOISE = 6.0  # half width of the pixel noise
_Pixels = NDArray[np.float32]


def draw(scene: Scene, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draws a scene.

    Args:
        scene: The contents.
        rng: Source of what no question asks about: background, clutter, jitter, noise.

    Returns:
        An image ``[96, 96, 3]``, RGB.
    """
    canvas = _background(rng)
    _clutter(canvas, rng)
    for thing in scene.things:
        _draw_thing(canvas, thing, rng)
    if scene.sign is not None:
        draw_sign(canvas, scene.sign, rng)
    canvas += (2 * rng.random(canvas.shape, dtype=np.float32) - 1) * np.float32(_NOISE)
    return np.clip(canvas, 0, 255).astype(np.uint8)


def _background(rng: np.random.Generator) -> _Pixels:
    base = rng.integers(70, 200) + rng.integers(-18, 19, size=3)
    knots = (base + rng.integers(-25, 26, size=(_COARSE, _COARSE, 1))).astype(np.float32)
    at = np.arange(SIDE, dtype=np.float32) * np.float32((_COARSE - 1) / SIDE)
    low = at.astype(np.int64)
    part = (at - low).astype(np.float32)[:, None, None]
    rows: _Pixels = knots[low] * (1 - part) + knots[low + 1] * part
    columns = rows.transpose(1, 0, 2)
    canvas: _Pixels = columns[low] * (1 - part) + columns[low + 1] * part
    return np.ascontiguousarray(canvas.transpose(1, 0, 2))


def _clutter(canvas: _Pixels, rng: np.random.Generator) -> None:
    # Grey bars and specks, too thin and too dull to be a thing.
    for _ in range(int(rng.integers(2, 9))):
        long, thin = int(rng.integers(3, 30)), int(rng.integers(1, 3))
        height, width = (long, thin) if rng.random() < 0.5 else (thin, long)
        x, y = (int(v) for v in rng.integers(0, SIDE, 2))
        canvas[y : y + height, x : x + width] = np.float32(rng.integers(40, 220))


def _draw_thing(canvas: _Pixels, thing: Thing, rng: np.random.Generator) -> None:
    reach = thing.radius + 1
    top, left = max(thing.y - reach, 0), max(thing.x - reach, 0)
    window = canvas[top : thing.y + reach + 1, left : thing.x + reach + 1]
    rows = np.arange(top, top + window.shape[0], dtype=np.float32)[:, None] - thing.y
    columns = np.arange(left, left + window.shape[1], dtype=np.float32)[None, :] - thing.x
    inside = _depth(thing.shape, columns, rows, np.float32(thing.radius))
    cover = np.clip(inside + np.float32(0.5), 0, 1)[:, :, None]
    colour = _RGB[thing.colour] + rng.integers(-_JITTER, _JITTER + 1, size=3).astype(np.float32)
    window *= 1 - cover
    window += cover * colour


def _depth(shape: int, x: _Pixels, y: _Pixels, radius: np.float32) -> _Pixels:
    """Distance in pixels into a shape (negative outside), near its edge; index as in ``SHAPES``."""
    far = np.sqrt(x * x + y * y)
    ax, ay = np.abs(x), np.abs(y)
    depth: _Pixels
    if shape == 0:
        depth = radius - far
    elif shape == 1:
        depth = np.float32(0.85) * radius - np.maximum(ax, ay)
    elif shape == 2:
        side = (y + radius) * np.float32(0.45) - ax * np.float32(0.9)
        depth = np.minimum(np.float32(0.8) * radius - y, side)
    elif shape == 3:
        depth = (radius - ax - ay) * np.float32(0.7)
    elif shape == 4:
        depth = np.minimum(
            np.float32(0.32) * radius - np.minimum(ax, ay), radius - np.maximum(ax, ay)
        )
    else:
        depth = np.float32(0.24) * radius - np.abs(far - np.float32(0.76) * radius)
    return depth


def draw_sign(canvas: _Pixels, sign: Sign, rng: np.random.Generator) -> None:
    """Draws a sign in place.

    Args:
        canvas: ``[96, 96, 3]`` in [0, 255].
        sign: With its position.
        rng: Source of its colours, and of whether it has a plate.
    """
    dark, light = rng.integers(0, 70, size=3), rng.integers(190, 256, size=3)
    ink, paper = (dark, light) if rng.random() < 0.6 else (light, dark)
    if rng.random() < 0.8:
        left, top, right, bottom = sign.plate
        canvas[top:bottom, left:right] = paper.astype(np.float32)
    else:
        # No plate: the text stands on the background, in whichever ink is further from it.
        behind = canvas[sign.y : sign.y + sign.height, sign.cells[0][0] : sign.cells[-1][1]]
        ink = light if float(np.median(behind)) < 128 else dark
    atlas = glyphs.glyphs(sign.face, sign.size)
    left = sign.x
    for character, width in zip(sign.text, sign.widths, strict=True):
        glyph = atlas[glyphs.CHARACTERS.index(character)]
        cover = (glyph.astype(np.float32) * np.float32(1 / 255))[:, :, None]
        window = canvas[sign.y : sign.y + sign.height, left : left + width]
        window *= 1 - cover
        window += cover * ink.astype(np.float32)
        left += width + sign.spacing
