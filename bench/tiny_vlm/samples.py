"""Batches of images, with what the stages need to know about them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from svdprune_ext.tiny_vlm.samples import Sample, sample
from svdprune_ext.tiny_vlm.splits import Split

_MEAN = np.array(
    [0.48145466, 0.4578275, 0.40821073], dtype=np.float32
)  # CLIPImageProcessor's defaults
_STD = np.array([0.26862954, 0.26130258, 0.27577711], dtype=np.float32)


def batches(split: Split, first: int, size: int) -> Iterator[list[Sample]]:
    """Yields samples without end, ``size`` at a time, from number ``first`` on."""
    while True:
        yield [sample(split, index) for index in range(first, first + size)]
        first += size


def pixel_values(samples: list[Sample]) -> Tensor:
    """Does what the processor does to images of the model's own size: ``[n, 3, side, side]``."""
    return normalise(np.stack([s.image for s in samples]))


def normalise(images: NDArray[np.uint8]) -> Tensor:
    """Scales images ``[n, side, side, 3]`` as the processor does, to ``[n, 3, side, side]``."""
    normal = (images.astype(np.float32) / 255 - _MEAN) / _STD
    return torch.from_numpy(np.ascontiguousarray(normal.transpose(0, 3, 1, 2)))
