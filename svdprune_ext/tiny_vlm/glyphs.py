"""The glyph atlas: capital letters and digits of eighteen DejaVu faces in three sizes, as grey pixels."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ATLAS = Path(__file__).parent / "glyphs.npz"
CHARACTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
SIZES = 3  # capitals of 10, 12 and 14 pixels

TEST_FACES = ("SansCondensed-Bold", "SansMono-Oblique", "Serif-BoldItalic")
TRAIN_FACES = (
    "Sans",
    "Sans-Bold",
    "Sans-Oblique",
    "Sans-BoldOblique",
    "SansCondensed",
    "SansCondensed-Oblique",
    "SansMono",
    "SansMono-Bold",
    "SansMono-BoldOblique",
    "Serif",
    "Serif-Bold",
    "Serif-Italic",
    "SerifCondensed",
    "SerifCondensed-Bold",
    "SerifCondensed-Italic",
)
FACES = TRAIN_FACES + TEST_FACES


@cache
def glyphs(face: str, size: int) -> tuple[NDArray[np.uint8], ...]:
    """Returns the characters of one face and size, in the order of ``CHARACTERS``.

    Args:
        face: One of ``FACES``.
        size: 0, 1 or 2.

    Returns:
        An array ``[height, width]`` a character: 0 is paper, 255 is ink; the height is the face's.
    """
    atlas = _atlas()
    ends = np.cumsum(atlas[f"{face}/{size}/widths"], dtype=np.int64)[:-1]
    return tuple(np.split(atlas[f"{face}/{size}/pixels"], ends, axis=1))


@cache
def _atlas() -> dict[str, Any]:
    with np.load(ATLAS) as arrays:
        return dict(arrays)
