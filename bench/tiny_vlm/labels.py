"""What each patch of an image shows, and what the image shows as a whole: the targets of the first stage."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bench.tiny_vlm.build import GRID, PATCH
from svdprune_ext.tiny_vlm.glyphs import CHARACTERS
from svdprune_ext.tiny_vlm.scenes import COLOURS, SHAPES, Scene

# Classes of each label; where a patch shows nothing of the kind, the class is 0.
DENSE = {
    "colour": len(COLOURS) + 1,
    "shape": len(SHAPES) + 1,
    "centre": 2,
    "glyph": len(CHARACTERS) + 1,
    "slot": 5,
    "column": GRID,
    "row": GRID,
}
TAGS = len(COLOURS) + len(SHAPES) + 1  # of the whole image: each colour, each shape, a sign

_CENTRES = np.arange(GRID) * PATCH + PATCH // 2


def dense_labels(scene: Scene) -> NDArray[np.int64]:
    """Labels every patch.

    Args:
        scene: The contents of the image.

    Returns:
        ``[patches, labels]`` in the order of ``DENSE``.
    """
    grid = {name: np.zeros((GRID, GRID), dtype=np.int64) for name in DENSE}
    grid["column"][:] = np.arange(GRID)
    grid["row"][:] = np.arange(GRID)[:, None]
    for thing in scene.things:
        across, down = _CENTRES[None, :] - thing.x, _CENTRES[:, None] - thing.y
        inside = across**2 + down**2 <= thing.radius**2
        grid["colour"][inside] = thing.colour + 1
        grid["shape"][inside] = thing.shape + 1
        grid["centre"][thing.y // PATCH, thing.x // PATCH] = 1
    if scene.sign is not None:
        sign = scene.sign
        rows = (sign.y <= _CENTRES) & (sign.y + sign.height > _CENTRES)
        for slot, (left, right) in enumerate(sign.cells):
            inside = rows[:, None] & ((left <= _CENTRES) & (right > _CENTRES))[None, :]
            grid["glyph"][inside] = CHARACTERS.index(sign.text[slot]) + 1
            grid["slot"][inside] = slot + 1
    return np.stack([labels.reshape(-1) for labels in grid.values()], axis=1)


def tags(scene: Scene) -> NDArray[np.float32]:
    """Tells which colours and shapes an image shows, and whether a sign: ``[TAGS]`` of 0 and 1."""
    shown = np.zeros(TAGS, dtype=np.float32)
    for thing in scene.things:
        shown[thing.colour] = 1
        shown[len(COLOURS) + thing.shape] = 1
    shown[-1] = scene.sign is not None
    return shown
