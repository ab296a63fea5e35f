"""A small VLM of each family with seeded random weights, and prompts for it; no download."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor

PAD, BOS, EOS = 0, 1, 2
IMAGE, VIDEO, START, END, BREAK = 100, 101, 102, 103, 104
VOCAB = 128


@dataclass
class Tiny:
    """One family's small model.

    Attributes:
        build: The model, from its config.
        images: Inputs of so many random images, as the family's processor would give them.
        tokens: Number of placeholders of each of these images.
        features: The encoder's features of each row that the projector returns, from the projector's input
            and the images.
        extras: Further inputs, from input_ids.
        projector: The module that gets the encoder's features.
        scored: Where rows are not the projector's: features and places of each image's tokens, likewise.
        next_type: Token type of a decoded token.
        by_prompt: Whether pixels have a dimension of prompts, padded with empty images.
        mrope: Whether position ids have an axis for time, height and width.
    """

    build: Callable[..., Any]
    images: Callable[[int, torch.Generator], dict[str, Tensor]]
    tokens: Callable[[Any, dict[str, Tensor]], list[int]]
    features: Callable[..., Tensor] = lambda model, x, images: x.flatten(0, -2)
    extras: Callable[[Tensor], dict[str, Tensor]] = lambda ids: {}
    projector: Callable[[Any], torch.nn.Module] = lambda model: model.model.multi_modal_projector
    mrope: bool = False
    scored: Callable[..., list[tuple[Tensor, Tensor]]] | None = None
    next_type: int = 0
    by_prompt: bool = False


def seeded(model: Any, dtype: torch.dtype) -> Any:
    """The model with weights so large that logits differ by far more than rounding."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1 or float(parameter.abs().sum()) == 0:
                parameter.normal_(0, 0.15, generator=generator)
    model.generation_config.pad_token_id = PAD
    model.generation_config.eos_token_id = None
    model.generation_config.bos_token_id = BOS
    return model.eval().to(dtype)


def builder(make: Callable[[], Any], model_class: str) -> Callable[..., Any]:
    def build(attention: str = "sdpa", dtype: torch.dtype = torch.float32) -> Any:
        config = make()
        config._attn_implementation = attention
        torch.manual_seed(0)
        return seeded(getattr(transformers, model_class)(config), dtype)

    return build


@torch.no_grad()
def encoded_lengths(model: Any, inputs: dict[str, Tensor]) -> list[int]:
    """Rows of each image that the unpatched model's encoder returns."""
    rows = model.get_image_features(**inputs, return_dict=True).pooler_output
    return [image.shape[-2] for image in rows]


def tiny_of(model: Any) -> Tiny:
    """What the tests know of a model."""
    from tiny_configs import TINY  # it imports this module

    return TINY[type(model).__name__]


def batch(
    model: Any,
    *prompts: tuple[int | str, ...],
    padding: str = "left",
    dtype: torch.dtype = torch.float32,
    seed: int = 1,
) -> dict[str, Tensor]:
    """Inputs of a padded batch.

    Args:
        model: A tiny model.
        *prompts: Parts of each prompt: a number n is n text tokens, "image" the next image's placeholders.
        padding: "left" or "right".
        dtype: Of the pixels.
        seed: Of the pixels.
    """
    tiny = tiny_of(model)
    count = sum(part == "image" for prompt in prompts for part in prompt)
    inputs = tiny.images(count, torch.Generator().manual_seed(seed)) if count else {}
    inputs = {k: v.to(dtype) if v.is_floating_point() else v for k, v in inputs.items()}
    lengths = iter(tiny.tokens(model, inputs) if count else [])
    if tiny.by_prompt and count:
        of_prompts = [prompt.count("image") for prompt in prompts]
        pixels = inputs["pixel_values"]
        padded = pixels.new_zeros(len(prompts), max(of_prompts), *pixels.shape[1:])
        for row, images in zip(padded, pixels.split(of_prompts), strict=True):
            row[: len(images)] = images
        inputs["pixel_values"] = padded
    rows = []
    for prompt in prompts:
        ids = [BOS]
        for part in prompt:
            if part == "image":
                ids += [START, *[IMAGE] * next(lengths), END]
            else:
                ids += [(7 * len(ids) + 3 * i) % 90 + 5 for i in range(int(part))]
        rows.append(ids)
    longest = max(map(len, rows))
    ids, mask = [], []
    for row in rows:
        fill, ones = [PAD] * (longest - len(row)), [1] * len(row)
        ids.append(fill + row if padding == "left" else row + fill)
        mask.append([0] * len(fill) + ones if padding == "left" else ones + [0] * len(fill))
    text_inputs = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}
    return {**text_inputs, **tiny.extras(text_inputs["input_ids"]), **inputs}
