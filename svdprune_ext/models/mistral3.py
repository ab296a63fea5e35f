"""Mistral 3 (Pixtral): images of any size.

The projector merges 2 x 2 patches into one token: its features are theirs, side by side. ``[IMG_BREAK]`` and
``[IMG_END]`` are text, and stay.
"""

from typing import Any

import torch
from torch import Tensor

from svdprune_ext.models.family import Call, Family, Grid


def _image_grid(base: Any, features: Tensor, call: Call) -> Grid:
    patch, merge = base.vision_tower.patch_size, base.config.spatial_merge_size
    sizes = [(int(h) // patch, int(w) // patch) for h, w in call["image_sizes"]]
    tokens = []
    for image, (high, wide) in zip(features.split([h * w for h, w in sizes]), sizes, strict=True):
        rows, columns = high // merge, wide // merge
        grid = image.unflatten(0, (high, wide))[: rows * merge, : columns * merge]
        squares = grid.unflatten(1, (columns, merge)).unflatten(0, (rows, merge)).transpose(1, 2)
        tokens.append(squares.reshape(rows * columns, -1))
    return Grid(torch.cat(tokens), [[len(image)] for image in tokens])


MISTRAL3 = Family(
    model_class="Mistral3ForConditionalGeneration",
    projector=lambda base: base.multi_modal_projector,
    image_grid=_image_grid,
)
