"""Processors for the tiny models: a tokenizer with one token a character, the family's own image steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tiny_vlms import BOS, BREAK, END, EOS, IMAGE, PAD, START, VIDEO

_SPECIAL = {
    "<pad>": PAD,
    "<s>": BOS,
    "</s>": EOS,
    "<image>": IMAGE,
    "<video>": VIDEO,
    "<start>": START,
    "<end>": END,
    "<break>": BREAK,
}


def _tokenizer() -> Any:
    """Printable ASCII, the space, the line's end: the 96 ids between the special tokens."""
    from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    characters = [*map(chr, range(33, 127)), "Ġ", "Ċ"]  # as ByteLevel writes the last two
    vocabulary = {character: EOS + 1 + i for i, character in enumerate(characters)}
    assert max(vocabulary.values()) < IMAGE
    tokenizer = Tokenizer(BPE(vocabulary | _SPECIAL, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in _SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        padding_side="left",
        extra_special_tokens={
            "image_token": "<image>",
            "video_token": "<video>",
            "boi_token": "<start>",
            "eoi_token": "<end>",
        },
    )


def _llava(model: Any) -> Any:
    from transformers import LlavaProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    side = model.config.vision_config.image_size
    return LlavaProcessor(
        image_processor=CLIPImageProcessorPil(
            size={"shortest_edge": side}, crop_size={"height": side, "width": side}
        ),
        tokenizer=_tokenizer(),
        patch_size=model.config.vision_config.patch_size,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )


def _qwen2_5_vl(model: Any) -> Any:
    from transformers import Qwen2_5_VLProcessor
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    class WithoutVideos(Qwen2_5_VLProcessor):
        """Video processors need torchvision."""

        @classmethod
        def get_attributes(cls) -> list[str]:
            return ["image_processor", "tokenizer"]

    vision = model.config.vision_config
    images = Qwen2VLImageProcessorPil(
        patch_size=vision.patch_size,
        temporal_patch_size=vision.temporal_patch_size,
        merge_size=vision.spatial_merge_size,
        size={"shortest_edge": 28 * 28, "longest_edge": 112 * 112},
    )
    return WithoutVideos(images, _tokenizer())


def _gemma3(model: Any) -> Any:
    from transformers import Gemma3Processor
    from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

    side = model.config.vision_config.image_size
    return Gemma3Processor(
        Gemma3ImageProcessorPil(size={"height": side, "width": side}),
        _tokenizer(),
        image_seq_length=model.config.mm_tokens_per_image,
    )


# The prompt's mark for an image, and what makes the processor.
_PROCESSORS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "LlavaForConditionalGeneration": ("<image>", _llava),
    "Qwen2_5_VLForConditionalGeneration": ("<start><image><end>", _qwen2_5_vl),
    "Gemma3ForConditionalGeneration": ("<start>", _gemma3),
}


def processor_of(model: Any) -> tuple[Any, str]:
    """The tiny model's processor, and what stands for an image in its prompts."""
    mark, make = _PROCESSORS[type(model).__name__]
    return make(model), mark
