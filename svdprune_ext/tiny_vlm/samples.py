"""Numbered samples of a split."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from svdprune_ext.tiny_vlm.drawing import draw
from svdprune_ext.tiny_vlm.questions import Question, ask_all
from svdprune_ext.tiny_vlm.scenes import Scene, sample_scene
from svdprune_ext.tiny_vlm.splits import Split


@dataclass(frozen=True)
class Sample:
    """An image with its contents and every question about it.

    Attributes:
        scene: What it shows.
        image: ``[96, 96, 3]`` uint8, RGB.
        questions: With their answers.
    """

    scene: Scene
    image: NDArray[np.uint8]
    questions: tuple[Question, ...]


def sample(split: Split, index: int) -> Sample:
    """Makes one sample; the same arguments give the same bytes.

    Args:
        split: One of ``splits.SPLITS``.
        index: Its number in the split, from 0.

    Returns:
        The sample.
    """
    rng = np.random.default_rng((split.seed, index))
    scene = sample_scene(rng, split)
    image = draw(scene, rng)
    return Sample(scene, image, tuple(ask_all(scene, rng, split)))
