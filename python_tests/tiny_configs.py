"""Configs of a small VLM of each family, their random images, and what their tokens are scored by.

That a token is scored by the right features is said here by code of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers
from tiny_vlms import BOS, END, EOS, IMAGE, PAD, START, VIDEO, VOCAB, Tiny, builder, encoded_lengths
from torch import Tensor

TEXT = {
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
TOWER = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 7,
}
_TOWER_56 = {**TOWER, "num_hidden_layers": 2, "image_size": 56}


def text(kind: Any, **options: Any) -> Any:
    return kind(**{**TEXT, **options})


def clip(**options: Any) -> Any:
    return transformers.CLIPVisionConfig(**{**TOWER, "projection_dim": 32, **options})


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


def _llava_onevision() -> Any:
    return transformers.LlavaOnevisionConfig(
        vision_config=_siglip(28, 7),
        text_config=text(transformers.Qwen2Config),
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        image_grid_pinpoints=[[28, 56], [56, 28], [56, 56]],
        vision_aspect_ratio="anyres_max_2",  # of four tiles: the square image is scaled down
        vision_feature_layer=-1,
    )


def _siglip(image: int, patch: int) -> Any:
    return transformers.SiglipVisionConfig(
        **{**_TOWER_56, "image_size": image, "patch_size": patch}, vision_use_head=False
    )


def _internvl() -> Any:
    vision = {**_TOWER_56, "image_size": [56, 56], "patch_size": [7, 7]}
    return transformers.InternVLConfig(
        vision_config=vision,
        text_config=text(transformers.Qwen2Config),
        image_token_id=IMAGE,
        image_seq_length=16,
        downsample_ratio=0.5,
    )


def _paligemma() -> Any:
    return transformers.PaliGemmaConfig(
        vision_config=_siglip(28, 7),
        text_config=text(transformers.GemmaConfig, head_dim=12),
        image_token_id=IMAGE,
        projection_dim=48,
        hidden_size=48,
    )


def _gemma3() -> Any:
    return transformers.Gemma3Config(
        vision_config=_siglip(56, 7),
        text_config=text(
            transformers.Gemma3TextConfig,
            head_dim=12,
            sliding_window=8,  # shorter than a prompt
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        ),
        mm_tokens_per_image=16,
        image_token_id=IMAGE,
        boi_token_index=START,
        eoi_token_index=END,
    )


def _idefics(config: Any, vision: Any) -> Callable[[], Any]:
    def make() -> Any:
        return config(
            vision_config=dict(_TOWER_56),
            text_config=text(transformers.LlamaConfig),
            image_token_id=IMAGE,
            scale_factor=2,
            pad_token_id=PAD,
        )

    return make


def _mistral3() -> Any:
    return transformers.Mistral3Config(
        vision_config=transformers.PixtralVisionConfig(**_TOWER_56),
        text_config=text(transformers.MistralConfig, head_dim=12, sliding_window=None),
        image_token_index=IMAGE,
        spatial_merge_size=2,
        vision_feature_layer=-1,
    )


def _pixtral_images(count: int, generator: torch.Generator) -> dict[str, Tensor]:
    sizes = [((28, 56), (42, 28), (56, 56))[i % 3] for i in range(count)]
    pixels = torch.zeros(count, 3, 56, 56)
    for image, (high, wide) in zip(pixels, sizes, strict=True):
        image[:, :high, :wide] = torch.randn(3, high, wide, generator=generator)
    return {"pixel_values": pixels, "image_sizes": torch.tensor(sizes)}


def _mean_of_squares(model: Any, x: Tensor, images: dict[str, Tensor]) -> Tensor:
    """[images, 8 * 8, D] -> the mean of each square of 2 x 2."""
    maps = x.view(len(x), 8, 8, -1)
    squares = [
        maps[:, i : i + 2, j : j + 2].mean((1, 2)) for i in (0, 2, 4, 6) for j in (0, 2, 4, 6)
    ]
    return torch.stack(squares, 1).flatten(0, 1)


def _merged_squares(model: Any, x: Tensor, images: dict[str, Tensor]) -> Tensor:
    """Patches of images of 7-pixel patches -> those of each square of 2 x 2, side by side."""
    tokens, first = [], 0
    for high, wide in (images["image_sizes"] // 7).tolist():
        patches = x[first : first + high * wide].view(high, wide, -1)
        first += high * wide
        for i in range(0, high, 2):
            tokens += [patches[i : i + 2, j : j + 2].flatten() for j in range(0, wide, 2)]
    return torch.stack(tokens)


def _sewn(model: Any, x: Tensor, images: dict[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    """LLaVA-OneVision's base view and grid of 4 x 4-patch tiles, unpadded and scaled by hand."""
    result, first = [], 0
    grids = {(20, 56): (1, 2), (56, 28): (2, 1), (50, 50): (2, 2)}
    cuts = {
        (20, 56): (slice(1, 3), slice(0, 8)),
        (56, 28): (slice(None),) * 2,
        (50, 50): (slice(None),) * 2,
    }
    for size in map(tuple, images["image_sizes"].tolist()):
        down, across = grids[size]
        tiles = x[first + 1 : first + 1 + down * across].view(down, across, 4, 4, -1)
        sewn = tiles.transpose(1, 2).reshape(4 * down, 4 * across, -1)[cuts[size]]
        if size == (50, 50):  # 64 patches, where 2 tiles of 16 are allowed: by the root of 2
            scaled = sewn.permute(2, 0, 1)[None]
            sewn = torch.nn.functional.interpolate(scaled, [5, 5], mode="bilinear")[0].permute(
                1, 2, 0
            )
        high, wide, width = sewn.shape
        places = [16 + i * (wide + 1) + j for i in range(high) for j in range(wide)]
        features = torch.cat([x[first], sewn.reshape(-1, width)])
        result.append((features, torch.tensor([*range(16), *places])))
        first += 1 + down * across
    return result


def _token_types(ids: Tensor) -> dict[str, Tensor]:
    return {"token_type_ids": (ids == IMAGE).long()}


def _tiny(name: str, make: Callable[[], Any], images: Any, **options: Any) -> dict[str, Tiny]:
    model_class = f"{name}ForConditionalGeneration"
    tiny = Tiny(
        builder(make, model_class), images, options.pop("tokens", encoded_lengths), **options
    )
    return {model_class: tiny}


_QWEN: dict[str, Any] = {
    "tokens": lambda model, inputs: (inputs["image_grid_thw"].prod(1) // 4).tolist(),
    "features": lambda model, x, images: x.reshape(-1, 4 * x.shape[-1]),
    "extras": _qwen_extras,
    "projector": lambda model: model.model.visual.merger,
    "mrope": True,
}
_IDEFICS: dict[str, Any] = {
    "tokens": lambda model, inputs: [16] * inputs["pixel_values"].shape[:-3].numel(),
    "by_prompt": True,
    "projector": lambda model: model.model.connector.modality_projection,
}
_IDEFICS3 = _idefics(transformers.Idefics3Config, transformers.Idefics3VisionConfig)
_SMOLVLM = _idefics(transformers.SmolVLMConfig, transformers.SmolVLMVisionConfig)

TINY = {
    **_tiny("Llava", _llava, equal_images(28)),
    **_tiny("VipLlava", _vip_llava, equal_images(28)),
    **_tiny("LlavaNext", _llava_next, _anyres_images),
    **_tiny("LlavaOnevision", _llava_onevision, _anyres_images, scored=_sewn),
    **_tiny("Qwen2VL", _qwen2_vl, _qwen_images, **_QWEN),
    **_tiny("Qwen2_5_VL", _qwen2_5_vl, _qwen_images, **_QWEN),
    **_tiny("Qwen3VL", _qwen3_vl, _qwen_images, **_QWEN),
    **_tiny("InternVL", _internvl, equal_images(56)),
    **_tiny(
        "PaliGemma",
        _paligemma,
        equal_images(28),
        extras=lambda ids: {"token_type_ids": torch.zeros_like(ids)},
        next_type=1,
    ),
    **_tiny("Gemma3", _gemma3, equal_images(56), features=_mean_of_squares, extras=_token_types),
    **_tiny("Idefics3", _IDEFICS3, equal_images(56), **_IDEFICS),
    **_tiny("SmolVLM", _SMOLVLM, equal_images(56), **_IDEFICS),
    **_tiny("Mistral3", _mistral3, _pixtral_images, features=_merged_squares),
}
