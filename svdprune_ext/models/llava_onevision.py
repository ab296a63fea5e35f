"""LLaVA-OneVision: a base view and a grid of tiles for each image, scaled down if large; videos.

The features of a token are those of the encoder, brought to its place as the model brings the projected ones:
by unpadding, by bilinear scaling, and for a video by pooling. The tiles of an image are its base view and the
grid; those of a video are its frames. ``image_newline`` rows are separators.
"""

from typing import Any

import torch
from torch import Tensor

from svdprune_ext.models.family import Call, Family, Grid


def _image_grid(base: Any, features: Tensor, call: Call) -> Grid:
    from transformers.models.llava_onevision.modeling_llava_onevision import (
        image_size_to_num_patches,
    )

    config, sizes = base.config, call["image_sizes"]
    of_prompts = call.get("batch_num_images")
    of_prompts = [1] * len(sizes) if of_prompts is None else of_prompts
    # An image that shares its prompt with others is not cut into tiles.
    cut = [int(n) == 1 for n in of_prompts for _ in range(int(n))]
    counts = [
        image_size_to_num_patches(
            size, config.image_grid_pinpoints, config.vision_config.image_size
        )
        if tiled
        else 1
        for size, tiled in zip(sizes, cut, strict=False)
    ]
    ratio = call.get("vision_aspect_ratio") or config.vision_aspect_ratio

    def packed(values: Tensor) -> list[Tensor]:
        newline = values.new_zeros(values.shape[-1])
        images, _ = base.pack_image_features(
            torch.split(values, counts), sizes, image_newline=newline, vision_aspect_ratio=ratio
        )
        return list(images)

    # Ones that go the features' way come out as ones, and newlines as zeros.
    is_token = torch.cat(packed(torch.ones_like(features[..., :1]))).squeeze(-1) > 0.5
    images = packed(features)
    row_counts = [len(image) for image in images]
    view = features.shape[1]
    tiles = []
    for tokens, tiled in zip(is_token.split(row_counts), counts, strict=True):
        rest = int(tokens.sum()) - view
        tiles.append([view, rest] if tiled > 1 else [view])
    places = is_token.nonzero().squeeze(-1)
    return Grid(torch.cat(images)[places], tiles, places=places, row_counts=row_counts)


def _video_grid(base: Any, features: Tensor, call: Call) -> Grid:
    tokens = base.apply_pooling(features)
    per_frame = tokens.shape[1]
    if (
        "pixel_values_videos" not in call
    ):  # transformers 5.17, which adds the newline later: it stays
        videos, frames = call["pixel_values"].shape[:2]
        return Grid(tokens.flatten(0, 1), [[per_frame] * frames] * videos)
    videos, frames = call["pixel_values_videos"].shape[:2]
    rows = frames * per_frame + 1
    places = torch.arange(videos * rows, device=features.device).view(videos, rows)[:, :-1]
    return Grid(
        tokens.flatten(0, 1),
        [[per_frame] * frames] * videos,
        places=places.flatten(),
        row_counts=[rows] * videos,
    )


LLAVA_ONEVISION = Family(
    model_class="LlavaOnevisionForConditionalGeneration",
    projector=lambda base: base.multi_modal_projector,
    tower=lambda base: base.vision_tower,
    image_grid=_image_grid,
    video_grid=_video_grid,
)
