"""The untrained model and its processor: sizes and vocabulary."""

from __future__ import annotations

from typing import Any

from svdprune_ext.tiny_vlm.glyphs import CHARACTERS
from svdprune_ext.tiny_vlm.questions import NUMBERS
from svdprune_ext.tiny_vlm.scenes import COLOURS, SHAPES, SIDE

PATCH = 8
GRID = SIDE // PATCH
TOKENS = GRID * GRID
WIDTH = 128
# A conversation is the text of its messages; an image comes where it stands.
CHAT_TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endfor %}"
)
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<image>")
_PLURALS = ("circles", "squares", "triangles", "diamonds", "crosses", "rings")
_QUESTION_WORDS = """
? a above are below bottom colour does how is left many no of or right say shape sign the there thing things
top what where yes
"""


def vocabulary() -> dict[str, int]:
    """Returns every token's id: special tokens, words, and characters that begin or go on a sign's text."""
    tokens = (
        *SPECIAL,
        *_QUESTION_WORDS.split(),
        *NUMBERS,
        *COLOURS,
        *SHAPES,
        *_PLURALS,
        *CHARACTERS,
    )
    continued = (f"##{character}" for character in CHARACTERS)
    return {token: index for index, token in enumerate((*tokens, *continued))}


def build_processor() -> Any:
    """Returns a ``LlavaProcessor`` around CLIP's image steps and a WordPiece tokenizer."""
    from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers, processors
    from tokenizers.models import WordPiece
    from transformers import LlavaProcessor, PreTrainedTokenizerFast
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    known = vocabulary()
    tokenizer = Tokenizer(WordPiece(known, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", known["<s>"])]
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        padding_side="left",
        model_max_length=512,
        extra_special_tokens={"image_token": "<image>"},
    )
    image_processor = CLIPImageProcessorPil(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}
    )
    return LlavaProcessor(
        image_processor=image_processor,
        tokenizer=fast,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )


def build_model() -> Any:
    """Returns a ``LlavaForConditionalGeneration`` in float32, its weights as transformers starts them."""
    from transformers import (
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
    )

    known = vocabulary()
    vision = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=5,
        num_attention_heads=4,
        image_size=SIDE,
        patch_size=PATCH,
        projection_dim=WIDTH,
    )
    text = LlamaConfig(
        vocab_size=len(known),
        hidden_size=WIDTH,
        intermediate_size=320,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=1024,
        initializer_range=0.06,
        pad_token_id=known["<pad>"],
        bos_token_id=known["<s>"],
        eos_token_id=known["</s>"],
        tie_word_embeddings=False,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=known["<image>"],
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_seq_length=TOKENS,
        tie_word_embeddings=False,
    )
    return LlavaForConditionalGeneration(config)
