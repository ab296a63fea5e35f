"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL: images of any size, and M-RoPE.

The merger turns 2 x 2 patches into one token: the token's features are its four patches, side by side. The
tiles of a video are its frames (pairs of them, as the encoder takes them).
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from svdprune_ext.models.family import Call, Family, Grid


def _grid(base: Any, features: Tensor, sizes: Tensor) -> Grid:
    merge = base.visual.spatial_merge_size**2
    tokens = features.reshape(-1, merge * features.shape[-1])
    frames = [[int(h * w) // merge] * int(t) for t, h, w in sizes.tolist()]
    return Grid(tokens, frames)


def _image_grid(base: Any, features: Tensor, call: Call) -> Grid:
    return _grid(base, features, call["image_grid_thw"])


def _video_grid(base: Any, features: Tensor, call: Call) -> Grid:
    return _grid(base, features, call["video_grid_thw"])


def _out_of_windows(base: Any, grid: Grid, sizes: Tensor) -> Grid:
    """Qwen2.5-VL's merger gets the tokens in the order of its attention windows."""
    visual = base.visual
    if hasattr(visual, "get_window_index"):  # transformers before 5.20
        window_index, _ = visual.get_window_index(sizes)
    else:
        from transformers.vision_utils import get_vision_window_index

        window_index, _ = get_vision_window_index(
            sizes, visual.spatial_merge_size, visual.window_size, visual.patch_size
        )
    window_index = torch.as_tensor(window_index, device=grid.features.device)
    return Grid(grid.features[window_index.argsort()], grid.tiles)


def _windowed_image_grid(base: Any, features: Tensor, call: Call) -> Grid:
    return _out_of_windows(base, _image_grid(base, features, call), call["image_grid_thw"])


def _windowed_video_grid(base: Any, features: Tensor, call: Call) -> Grid:
    return _out_of_windows(base, _video_grid(base, features, call), call["video_grid_thw"])


QWEN2_VL = Family(
    model_class="Qwen2VLForConditionalGeneration",
    projector=lambda base: base.visual.merger,
    image_grid=_image_grid,
    video_grid=_video_grid,
    positions="original",
)

QWEN2_5_VL = replace(
    QWEN2_VL,
    model_class="Qwen2_5_VLForConditionalGeneration",
    image_grid=_windowed_image_grid,
    video_grid=_windowed_video_grid,
)

QWEN3_VL = replace(QWEN2_VL, model_class="Qwen3VLForConditionalGeneration")
