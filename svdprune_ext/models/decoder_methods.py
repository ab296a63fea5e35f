"""From the arguments of ``apply`` to a method that prunes within the decoder, checked against the model."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from svdprune_ext.in_decoder import METHODS, DecoderMethod
from svdprune_ext.models.family import Family

DEFAULT_KEEP = 32  # of ``apply``

_FAMILIES = ("Llava", "VipLlava", "LlavaNext", "LlavaOnevision", "InternVL", "Mistral3")
MODEL_CLASSES = tuple(f"{name}ForConditionalGeneration" for name in _FAMILIES)
DECODERS = ("LlamaModel", "MistralModel", "Qwen2Model", "Qwen3Model")


def from_arguments(
    name: str,
    keep: int | float,
    tokens: int | Sequence[int | float] | None,
    version: str | None,
    options: Mapping[str, Any],
) -> DecoderMethod:
    """The method of that name.

    Raises:
        ValueError: An argument is missing, not the method's, or out of its range.
    """
    kind: Any = METHODS[name]
    own = {"sparsevlm": ("tokens", "version"), "fastv": ("keep",), "pyramiddrop": ()}[name]
    budget = {"keep": keep, "tokens": tokens, "version": version}
    for argument, default in (("keep", DEFAULT_KEEP), ("tokens", None), ("version", None)):
        if argument not in own and budget[argument] != default:
            raise ValueError(
                f"apply: {argument} must be left out for method {name}, got {budget[argument]!r}"
            )
    if name == "sparsevlm" and tokens is None:
        raise ValueError("apply: tokens must be given for method sparsevlm, got None")
    known = [option for option in inspect.signature(kind).parameters if option not in budget]
    for option in options:
        if option not in known:
            raise ValueError(f"{name}: option must be one of {', '.join(known)}, got {option}")
    given = {argument: budget[argument] for argument in own if budget[argument] is not None}
    method: DecoderMethod = kind(**given, **options)
    return method


def check_model(method: DecoderMethod, family: Family, decoder: Any) -> None:
    """Refuses a model that the method does not fit.

    Raises:
        ValueError: Its class or its decoder is not supported, or it has no such layer.
    """
    kind = type(decoder).__name__
    if family.model_class not in MODEL_CLASSES or kind not in DECODERS:
        raise ValueError(
            f"apply: model must be one of {', '.join(MODEL_CLASSES)}, with a decoder of "
            f"{', '.join(DECODERS)}, for method {method.name}, got {family.model_class} with {kind}"
        )
    config = decoder.config
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    slides = kind == "MistralModel" and config.sliding_window is not None
    if kinds != {"full_attention"} or slides:
        raise ValueError(
            "apply: model must have full attention in all decoder layers for method "
            f"{method.name}, got a sliding window"
        )
    attention = config._attn_implementation
    if attention not in ("eager", "sdpa") and "flash" not in attention:
        raise ValueError(
            f"apply: model must run eager, sdpa or flash attention for method {method.name}, got "
            f"{attention!r}"
        )
    depth = len(decoder.layers)
    layers = method.layers_of(depth)
    if layers[-1] > depth - 2:
        raise ValueError(
            f"apply: the last pruning layer must be at most {depth - 2} in a decoder of {depth} layers, got "
            f"{layers[-1]}"
        )
