"""PaliGemma and PaliGemma 2: one square grid for each image; the whole prompt sees itself."""

from svdprune_ext.models.family import Family, images_of_equal_size

PALIGEMMA = Family(
    model_class="PaliGemmaForConditionalGeneration",
    projector=lambda base: base.multi_modal_projector,
    tower=lambda base: base.vision_tower,
    image_grid=images_of_equal_size,
    row_by_row=True,
    first_position=1,
)
