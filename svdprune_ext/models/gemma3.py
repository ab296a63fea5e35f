"""Gemma 3: one square grid for each image or crop, whose tokens all see each other.

The projector averages the patches of a square: their mean is what a token is scored by.
"""

from typing import Any

import torch
from torch import Tensor

from svdprune_ext.models.family import Call, Family, Grid, images_of_equal_size


def _image_grid(base: Any, features: Tensor, call: Call) -> Grid:
    projector = base.multi_modal_projector
    side = projector.patches_per_image
    maps = features.transpose(1, 2).unflatten(2, (side, side))
    pooled = torch.nn.functional.avg_pool2d(maps, projector.kernel_size)
    return images_of_equal_size(base, pooled.flatten(2).transpose(1, 2), call)


GEMMA3 = Family(
    model_class="Gemma3ForConditionalGeneration",
    projector=lambda base: base.multi_modal_projector,
    tower=lambda base: base.vision_tower,
    image_grid=_image_grid,
)
