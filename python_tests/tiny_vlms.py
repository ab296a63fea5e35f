"""A small VLM of each family with seeded random weights, and prompts for it; no download.

Each ``Tiny`` also says, by code of its own, which features a token is scored by.
"""

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
        features: The encoder's features of each row that the projector returns, from the projector's input.
        extras: Further inputs, from input_ids.
        mrope: Whether position ids have an axis for time, height and width.
    """

    build: Callable[..., Any]
    images: Callable[[int, torch.Generator], dict[str, Tensor]]
    tokens: Callable[[Any, dict[str, Tensor]], list[int]]
    features: Callable[[Any, Tensor], Tensor] = lambda model, x: x.flatten(0, -2)
    extras: Callable[[Tensor], dict[str, Tensor]] = lambda ids: {}
    projector: Callable[[Any], torch.nn.Module] = lambda model: model.model.multi_modal_projector
    mrope: bool = False


def text(kind: Any, **options: Any) -> Any:
    sizes = {
        "vocab_size": VOCAB,
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "pad_token_id": PAD,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
    }
    return kind(**{**sizes, **options})


def clip(**options: Any) -> Any:
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 7,
    }
    return transformers.CLIPVisionConfig(**{**sizes, "projection_dim": 32, **options})


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


def equal_images(size: int) -> Callable[[int, torch.Generator], dict[str, Tensor]]:
    def images(count: int, generator: torch.Generator) -> dict[str, Tensor]:
        return {"pixel_values": torch.randn(count, 3, size, size, generator=generator)}

    return images


def _llava() -> Any:
    return transformers.LlavaConfig(
        vision_config=clip(),
        text_config=text(transformers.LlamaConfig),
        image_token_id=IMAGE,
        image_seq_length=16,
    )


def _vip_llava() -> Any:
    return transformers.VipLlavaConfig(
        vision_config=clip(),
        text_config=text(transformers.LlamaConfig),
        image_token_id=IMAGE,
        image_seq_length=16,
        vision_feature_layers=[-2, -1, 1],
    )


def _llava_next() -> Any:
    return transformers.LlavaNextConfig(
        vision_config=clip(),
        text_config=text(transformers.LlamaConfig),
        image_token_id=IMAGE,
        image_seq_length=16,
        image_grid_pinpoints=[[28, 56], [56, 28], [56, 56]],
    )


# Wide, tall and square: two, two and four tiles beside the base view; the first is cut on unpadding.
_SIZES = [(20, 56), (56, 28), (50, 50)]


def _anyres_images(count: int, generator: torch.Generator) -> dict[str, Tensor]:
    sizes = [_SIZES[i % len(_SIZES)] for i in range(count)]
    pixels = torch.zeros(count, 5, 3, 28, 28)
    for i, size in enumerate(sizes):
        tiles = 5 if size == (50, 50) else 3
        pixels[i, :tiles] = torch.randn(tiles, 3, 28, 28, generator=generator)
    return {"pixel_values": pixels, "image_sizes": torch.tensor(sizes)}


@torch.no_grad()
def encoded_lengths(model: Any, inputs: dict[str, Tensor]) -> list[int]:
    """Rows of each image that the unpatched model's encoder returns."""
    rows = model.get_image_features(**inputs, return_dict=True).pooler_output
    return [image.shape[-2] for image in rows]


def _qwen_vision(**options: Any) -> dict[str, Any]:
    return {"depth": 2, "num_heads": 2, "in_channels": 3, "patch_size": 7, **options}


_ROPE = {"rope_type": "default", "mrope_section": [2, 2, 2], "rope_theta": 10000.0}
_QWEN_IDS = {
    "image_token_id": IMAGE,
    "video_token_id": VIDEO,
    "vision_start_token_id": START,
    "vision_end_token_id": END,
}


def _qwen2_vl() -> Any:
    return transformers.Qwen2VLConfig(
        vision_config=_qwen_vision(embed_dim=32, hidden_size=48, mlp_ratio=2),
        text_config=text(dict, rope_parameters=_ROPE),
        **_QWEN_IDS,
    )


def _qwen2_5_vl() -> Any:
    vision = _qwen_vision(
        hidden_size=32,
        intermediate_size=64,
        out_hidden_size=48,
        window_size=28,  # two tokens wide: the tokens of an image are reordered
        fullatt_block_indexes=[1],
    )
    return transformers.Qwen2_5_VLConfig(
        vision_config=vision, text_config=text(dict, rope_parameters=_ROPE), **_QWEN_IDS
    )


def _qwen3_vl() -> Any:
    vision = _qwen_vision(
        hidden_size=32,
        intermediate_size=64,
        out_hidden_size=48,
        num_position_embeddings=64,
        deepstack_visual_indexes=[0, 1],
    )
    return transformers.Qwen3VLConfig(
        vision_config=vision,
        text_config=text(dict, head_dim=12, rope_parameters=_ROPE),
        **_QWEN_IDS,
    )


_GRIDS = [(1, 4, 8), (1, 6, 4), (1, 8, 8)]  # patches in time, height, width


def _qwen_images(count: int, generator: torch.Generator) -> dict[str, Tensor]:
    grids = torch.tensor([_GRIDS[i % len(_GRIDS)] for i in range(count)])
    patches = int(grids.prod(1).sum())
    pixels = torch.randn(patches, 3 * 2 * 7 * 7, generator=generator)
    return {"pixel_values": pixels, "image_grid_thw": grids}


def _qwen_extras(ids: Tensor) -> dict[str, Tensor]:
    return {"mm_token_type_ids": (ids == IMAGE).int() + 2 * (ids == VIDEO).int()}


def _qwen(make: Callable[[], Any], model_class: str) -> Tiny:
    return Tiny(
        build=builder(make, model_class),
        images=_qwen_images,
        tokens=lambda model, inputs: (inputs["image_grid_thw"].prod(1) // 4).tolist(),
        features=lambda model, x: x.reshape(-1, 4 * x.shape[-1]),
        extras=_qwen_extras,
        projector=lambda model: model.model.visual.merger,
        mrope=True,
    )


TINY = {
    "LlavaForConditionalGeneration": Tiny(
        build=builder(_llava, "LlavaForConditionalGeneration"),
        images=equal_images(28),
        tokens=encoded_lengths,
    ),
    "VipLlavaForConditionalGeneration": Tiny(
        build=builder(_vip_llava, "VipLlavaForConditionalGeneration"),
        images=equal_images(28),
        tokens=encoded_lengths,
    ),
    "LlavaNextForConditionalGeneration": Tiny(
        build=builder(_llava_next, "LlavaNextForConditionalGeneration"),
        images=_anyres_images,
        tokens=encoded_lengths,
    ),
    "Qwen2VLForConditionalGeneration": _qwen(_qwen2_vl, "Qwen2VLForConditionalGeneration"),
    "Qwen2_5_VLForConditionalGeneration": _qwen(_qwen2_5_vl, "Qwen2_5_VLForConditionalGeneration"),
    "Qwen3VLForConditionalGeneration": _qwen(_qwen3_vl, "Qwen3VLForConditionalGeneration"),
}


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
    tiny = TINY[type(model).__name__]
    count = sum(part == "image" for prompt in prompts for part in prompt)
    inputs = tiny.images(count, torch.Generator().manual_seed(seed)) if count else {}
    inputs = {k: v.to(dtype) if v.is_floating_point() else v for k, v in inputs.items()}
    lengths = iter(tiny.tokens(model, inputs) if count else [])
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
