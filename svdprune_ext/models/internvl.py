"""InternVL: tiles of equal size.

A pixel shuffle before the projector turns 2 x 2 patches into one token: its features are theirs, side by
side. The model is not told which tiles make up an image, so each tile counts as an image.
"""

from svdprune_ext.models.family import Family, images_of_equal_size

INTERNVL = Family(
    model_class="InternVLForConditionalGeneration",
    projector=lambda base: base.multi_modal_projector,
    image_grid=images_of_equal_size,
    row_by_row=True,
)
