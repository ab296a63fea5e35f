"""Bakes the glyphs of the signs: ``python -m bench.tiny_vlm.atlas FOLDER_OF_DEJAVU_FONTS``.

The DejaVu faces (licence beside the atlas: free to use, change and pass on) are rasterised once, so that
images are the same bytes wherever they are drawn.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from svdprune_ext.tiny_vlm import glyphs

CAP_HEIGHTS = (10, 12, 14)  # pixels
PAD = 4  # room around a glyph before it is cropped
LEVELS = 17  # grey steps; 16 are as good to the eye and pack better


def main(folder: Path, target: Path = glyphs.ATLAS) -> None:
    arrays: dict[str, np.ndarray] = {}
    for face in glyphs.FACES:
        for size, cap in enumerate(CAP_HEIGHTS):
            images = rasterise(folder / f"DejaVu{face}.ttf", cap)
            widths = np.array([image.shape[1] for image in images], dtype=np.uint8)
            arrays[f"{face}/{size}/widths"] = widths
            arrays[f"{face}/{size}/pixels"] = np.concatenate(images, axis=1)
    np.savez_compressed(target, **arrays)


def rasterise(path: Path, cap: int) -> list[np.ndarray]:
    """Every character of one face, cropped to its ink in x and to common rows: uint8 [height, width] each."""
    font = ImageFont.truetype(str(path), 8)
    for points in range(8, 40):
        font = ImageFont.truetype(str(path), points)
        left, top, right, bottom = font.getbbox("H")
        if bottom - top >= cap:
            break
    height = cap + 2 * PAD
    inked = []
    for character in glyphs.CHARACTERS:
        left, _, right, _ = font.getbbox(character)
        canvas = Image.new("L", (int(right - left) + 2 * PAD, height))
        ImageDraw.Draw(canvas).text((PAD - left, PAD - top), character, fill=255, font=font)
        inked.append(np.asarray(canvas))
    rows = np.flatnonzero(np.stack([image.max(axis=1) for image in inked]).max(axis=0) > 24)
    cropped = []
    for image in inked:
        columns = np.flatnonzero(image.max(axis=0) > 24)
        ink = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        cropped.append((ink // LEVELS * LEVELS).astype(np.uint8))
    return cropped


if __name__ == "__main__":
    main(Path(sys.argv[1]))
