"""Real photographs through a vision tower of CLIP ViT-L/14-336's shape, whose weights are random.

No trained weights can be had without a download, so the tower is the demonstration's: all 24 layers, seeded
random weights, features of the second-to-last layer [576, 1024]. The photographs are real; what a trained
tower makes of them may differ, which is what ``python -m bench.spectra`` is for. With noise added, of a part
of the features' size, the rank goes from a handful to some hundreds.
"""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from bench.hard_suite import Input
from bench.inputs import flat
from bench.vision_features import VisionModel
from svdprune_ext.demo.random_llava import Shape, build_random_llava

# Shipped with scikit-image. Each is a function of skimage.data.
PHOTOGRAPHS = ("astronaut", "coffee", "chelsea", "rocket")
NOISE = (0.2, 0.5, 1.0)  # root mean square, of the features'

# LLaVA-1.5's vision tower; the language model is not used.
TOWER = Shape(text_width=64, text_layers=1, text_heads=1, text_inner=64)


def photographs(tower: Shape = TOWER) -> list[Input]:
    """Features of photographs, and of the first one with more and more noise.

    Args:
        tower: Shape of the model whose vision tower is used.

    Returns:
        Inputs of one size; the tower is run once for each photograph, when it is first asked for.
    """
    tokens, width = tower.num_tokens, tower.vision_width
    plain = [
        Input(f"{name}, ViT", tokens, width, partial(_features, tower, name, 0.0))
        for name in PHOTOGRAPHS
    ]
    noisy = [
        Input(
            f"{name}, ViT, noise {noise:g}", tokens, width, partial(_features, tower, name, noise)
        )
        for name in PHOTOGRAPHS[:1]
        for noise in NOISE
    ]
    return plain + noisy


def _features(tower: Shape, name: str, noise: float, tokens: int, width: int) -> Tensor:
    x = _through_tower(tower, name)
    return x + noise * x.square().mean().sqrt() * flat(tokens, width, seed=1)


@cache
def _through_tower(tower: Shape, name: str) -> Tensor:
    from PIL import Image
    from skimage import data

    photo = Image.fromarray(getattr(data, name)())
    (x,) = _vision_model(tower).features(photo)
    return x.float()


@cache
def _vision_model(tower: Shape) -> VisionModel:
    bundle: Any = build_random_llava(tower, seed=0, dtype=torch.float32)
    return VisionModel(bundle.name, bundle.model, bundle.processor.image_processor)
