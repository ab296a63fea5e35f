"""LLaVA-NeXT: a base view and a grid of tiles for each image, sewn together and cut to the image's shape.

The tokens of an image are those of the base view and those of the tiles that the cut leaves; the tiles are
the base view and each tile of the grid. ``image_newline`` rows are separators.
"""

from typing import Any

import torch
from torch import Tensor

from svdprune_ext.models.family import Call, Family, Grid


def _image_grid(base: Any, features: Tensor, call: Call) -> Grid:
    from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

    config = base.config
    counts = [
        image_size_to_num_patches(
            size, config.image_grid_pinpoints, config.vision_config.image_size
        )
        for size in call["image_sizes"]
    ]
    tiles, tokens, _ = features.shape
    # The model's own packing, run on row numbers, says which row becomes which token.
    rows = torch.arange(tiles * tokens, device=features.device).view(tiles, tokens, 1)
    packed, _ = base.pack_image_features(
        torch.split(rows, counts),
        call["image_sizes"],
        vision_feature_select_strategy=call.get("vision_feature_select_strategy")
        or config.vision_feature_select_strategy,
        image_newline=rows.new_full((1,), -1),
    )
    packed_rows = torch.cat(packed).squeeze(-1)
    places = (packed_rows >= 0).nonzero().squeeze(-1)
    by_tile = packed_rows[places].argsort()
    places = places[by_tile]
    kept_rows = packed_rows[places]
    of_tile = torch.bincount(kept_rows // tokens, minlength=tiles).tolist()
    starts = [sum(counts[:image]) for image in range(len(counts))]
    return Grid(
        features.flatten(0, 1)[kept_rows],
        [of_tile[start : start + n] for start, n in zip(starts, counts, strict=True)],
        rows=kept_rows,
        places=places,
        row_counts=[len(image) for image in packed],
    )


LLAVA_NEXT = Family(
    model_class="LlavaNextForConditionalGeneration",
    projector=lambda base: base.multi_modal_projector,
    tower=lambda base: base.vision_tower,
    image_grid=_image_grid,
    row_by_row=True,
)
