"""LLaVA-1.5 and VipLLaVA: one square grid of tokens for each image. LLaVA with Pixtral's tower: any size."""

from typing import Any

from torch import Tensor

from svdprune_ext.models.family import Call, Family, Grid, images_of_equal_size


def _image_grid(base: Any, features: Tensor, call: Call) -> Grid:
    if call.get("image_sizes") is None:
        return images_of_equal_size(base, features, call)
    patch = base.vision_tower.patch_size  # of Pixtral, which sets all images side by side
    images = [[(int(h) // patch) * (int(w) // patch)] for h, w in call["image_sizes"]]
    return Grid(features.flatten(0, 1), images)


LLAVA = Family(
    model_class="LlavaForConditionalGeneration",
    projector=lambda base: base.multi_modal_projector,
    tower=lambda base: base.vision_tower,
    image_grid=_image_grid,
    row_by_row=True,
)

VIP_LLAVA = Family(
    model_class="VipLlavaForConditionalGeneration",
    projector=lambda base: base.multi_modal_projector,
    tower=lambda base: base.vision_tower,
    image_grid=images_of_equal_size,
    row_by_row=True,
)
