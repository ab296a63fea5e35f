"""LLaVA-1.5 and VipLLaVA: one square grid of tokens for each image."""

from svdprune_ext.models.family import Family, images_of_equal_size

LLAVA = Family(
    model_class="LlavaForConditionalGeneration",
    projector=lambda base: base.multi_modal_projector,
    tower=lambda base: base.vision_tower,
    image_grid=images_of_equal_size,
    row_by_row=True,
)

VIP_LLAVA = Family(
    model_class="VipLlavaForConditionalGeneration",
    projector=lambda base: base.multi_modal_projector,
    tower=lambda base: base.vision_tower,
    image_grid=images_of_equal_size,
    row_by_row=True,
)
