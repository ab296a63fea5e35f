"""Idefics3 and SmolVLM: tiles of equal size.

A pixel shuffle before the projection turns patches into tokens: a token's features are theirs, side by side.
The model is not told which tiles make up an image, so each tile counts as an image.
"""

from svdprune_ext.models.family import Family, images_of_equal_size

IDEFICS3 = Family(
    model_class="Idefics3ForConditionalGeneration",
    projector=lambda base: base.connector.modality_projection,
    image_grid=images_of_equal_size,
    row_by_row=True,
)

SMOLVLM = Family(
    model_class="SmolVLMForConditionalGeneration",
    projector=lambda base: base.connector.modality_projection,
    image_grid=images_of_equal_size,
    row_by_row=True,
)
