"""Images full of signs: characters are learnt faster where there are many of them.

An ordinary image shows a sign in three cases of five, on a tenth of its patches. A page shows four.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from bench.tiny_vlm.labels import dense_labels
from svdprune_ext.tiny_vlm.drawing import draw, draw_sign
from svdprune_ext.tiny_vlm.scenes import SIDE, Scene, sample_sign
from svdprune_ext.tiny_vlm.splits import Split

Page = tuple[NDArray[np.uint8], NDArray[np.int64]]
_ROWS = 4
_STREAM = 1  # keeps a page's random numbers apart from those of the sample of the same number


def page(split: Split, index: int) -> Page:
    """Makes a page of four signs.

    Args:
        split: Its texts and faces.
        index: Its number; the same number gives the same bytes.

    Returns:
        The image ``[96, 96, 3]`` and its labels as of ``dense_labels``.
    """
    rng = np.random.default_rng((split.seed, index, _STREAM))
    canvas = draw(Scene((), None), rng).astype(np.float32)
    labels = dense_labels(Scene((), None))
    for row in range(_ROWS):
        sign = sample_sign(rng, split)
        _, top, _, bottom = sign.plate
        room = SIDE // _ROWS - (bottom - top)
        sign = replace(sign, y=sign.y - top + row * SIDE // _ROWS + int(rng.integers(room + 1)))
        draw_sign(canvas, sign, rng)
        # Labels of what is not there are 0, and of positions the same in both.
        labels = np.maximum(labels, dense_labels(Scene((), sign)))
    return canvas.astype(np.uint8), labels
