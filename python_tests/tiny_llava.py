"""A LLaVA model with seeded random weights, small enough for a test; no download."""

from __future__ import annotations

import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

IMAGE_TOKEN = 100
PAD_TOKEN = 0
TOKENS = 16  # vision tokens an image: 28 px, patches of 7


def tiny_llava(
    attention: str = "sdpa", dtype: torch.dtype = torch.float32
) -> LlavaForConditionalGeneration:
    """One 4 x 4-patch CLIP tower, a projector and a three-layer Llama."""
    vision = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=28,
        patch_size=7,
        projection_dim=32,
    )
    text = LlamaConfig(
        vocab_size=128,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        pad_token_id=PAD_TOKEN,
        bos_token_id=1,
        eos_token_id=2,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=IMAGE_TOKEN,
        image_seq_length=TOKENS,
        attn_implementation=attention,
    )
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                # Larger than the default, so that logits differ by far more than rounding.
                parameter.normal_(0, 0.15)
    model.generation_config.pad_token_id = PAD_TOKEN
    model.generation_config.eos_token_id = None
    return model.eval().to(dtype)


def prompt(*parts: int | str) -> list[int]:
    """Token ids: a number n is n text tokens, "image" an image's placeholders."""
    ids = [1]
    for part in parts:
        if part == "image":
            ids += [IMAGE_TOKEN] * TOKENS
        else:
            ids += [(7 * len(ids) + 3 * i) % 90 + 5 for i in range(int(part))]
    return ids


def batch(
    *prompts: list[int], padding: str = "left", dtype: torch.dtype = torch.float32, seed: int = 1
) -> dict[str, torch.Tensor]:
    """Inputs for a padded batch: ids, mask, and one random image for each placeholder block."""
    longest = max(map(len, prompts))
    ids, mask = [], []
    for p in prompts:
        fill, ones = [PAD_TOKEN] * (longest - len(p)), [1] * len(p)
        ids.append(fill + p if padding == "left" else p + fill)
        mask.append([0] * len(fill) + ones if padding == "left" else ones + [0] * len(fill))
    inputs = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}
    images = int((inputs["input_ids"] == IMAGE_TOKEN).sum()) // TOKENS
    if images:
        generator = torch.Generator().manual_seed(seed)
        pixels = torch.randn(images, 3, 28, 28, generator=generator)
        inputs["pixel_values"] = pixels.to(dtype)
    return inputs
