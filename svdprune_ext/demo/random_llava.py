"""A LLaVA-1.5-shaped model with random weights, and its processor, without any download.

The vision tower has the real shape (CLIP ViT-L/14 at 336 pixels), so tokens, timings and the pruning are what
a real checkpoint's would be in kind; the language model is small, and no weight was trained: text from this
model means nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration
from transformers.initialization import no_init_weights

from svdprune_ext.demo.bundle import Bundle, pick_device

_SPECIAL = ("<pad>", "<s>", "</s>", "<image>")
_VOCABULARY = 256 + len(_SPECIAL)
_STD = 0.02


@dataclass(frozen=True)
class Shape:
    """Sizes of the model; the defaults are LLaVA-1.5's, with a smaller language model.

    Attributes:
        image: Side of the image in pixels.
        patch: Side of a patch in pixels.
        vision_width: Width of the vision tower, D of the pruned features.
        vision_layers: Its layers; features come from the second to last.
        vision_heads: Its attention heads.
        text_width: Width of the language model.
        text_layers: Its layers.
        text_heads: Its attention heads.
        text_inner: Width inside its feed-forward layers.
    """

    image: int = 336
    patch: int = 14
    vision_width: int = 1024
    vision_layers: int = 24
    vision_heads: int = 16
    text_width: int = 1024
    text_layers: int = 4
    text_heads: int = 16
    text_inner: int = 2752

    @property
    def num_tokens(self) -> int:
        """Vision tokens of an image."""
        return (self.image // self.patch) ** 2


def build_random_llava(shape: Shape, seed: int, dtype: torch.dtype) -> Bundle:
    """Builds the model and its processor.

    Args:
        shape: Sizes.
        seed: Seed of the weights.
        dtype: Of the weights.

    Returns:
        A bundle whose text means nothing.
    """
    config = _config(shape)
    with no_init_weights():
        model = LlavaForConditionalGeneration(config)
    _fill(model, seed)
    assert model.generation_config is not None
    model.generation_config.eos_token_id = None  # always generate to the full length
    model = model.eval().to(device=pick_device(), dtype=dtype)
    name = (
        f"random LLaVA: CLIP ViT {shape.vision_layers} x {shape.vision_width} at {shape.image} px, "
        f"Llama {shape.text_layers} x {shape.text_width}"
    )
    return Bundle(model, build_processor(shape), name, meaningful=False)


def build_processor(shape: Shape) -> Any:
    """Builds a LLaVA processor: CLIP's image steps and a tokenizer with one token a byte.

    Args:
        shape: Sizes of the model.

    Returns:
        A ``LlavaProcessor``.
    """
    from transformers import LlavaProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    return LlavaProcessor(
        image_processor=CLIPImageProcessorPil(
            size={"shortest_edge": shape.image},
            crop_size={"height": shape.image, "width": shape.image},
        ),
        tokenizer=_byte_tokenizer(),
        patch_size=shape.patch,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )


def _config(shape: Shape) -> LlavaConfig:
    vision = CLIPVisionConfig(
        hidden_size=shape.vision_width,
        intermediate_size=4 * shape.vision_width,
        num_hidden_layers=shape.vision_layers,
        num_attention_heads=shape.vision_heads,
        image_size=shape.image,
        patch_size=shape.patch,
    )
    text = LlamaConfig(
        vocab_size=_VOCABULARY,
        hidden_size=shape.text_width,
        intermediate_size=shape.text_inner,
        num_hidden_layers=shape.text_layers,
        num_attention_heads=shape.text_heads,
        max_position_embeddings=4096,
        pad_token_id=_SPECIAL.index("<pad>"),
        bos_token_id=_SPECIAL.index("<s>"),
        eos_token_id=_SPECIAL.index("</s>"),
    )
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=_SPECIAL.index("<image>"),
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_seq_length=shape.num_tokens,
        tie_word_embeddings=False,
    )


def _fill(model: nn.Module, seed: int) -> None:
    # Matrices and embeddings from one generator; norms and biases as they start in training.
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 or name.endswith("class_embedding"):
                parameter.normal_(std=_STD, generator=generator)
            else:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)


def _byte_tokenizer() -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers, processors
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    bytes_ = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate((*_SPECIAL, *bytes_))}
    tokenizer = Tokenizer(BPE(vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", vocabulary["<s>"])]
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in _SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        extra_special_tokens={"image_token": "<image>"},
    )
