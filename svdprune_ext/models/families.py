"""The model families that ``apply`` knows."""

from __future__ import annotations

from torch import nn

from svdprune_ext.models.family import Family
from svdprune_ext.models.gemma3 import GEMMA3
from svdprune_ext.models.idefics3 import IDEFICS3, SMOLVLM
from svdprune_ext.models.internvl import INTERNVL
from svdprune_ext.models.llava import LLAVA, VIP_LLAVA
from svdprune_ext.models.llava_next import LLAVA_NEXT
from svdprune_ext.models.llava_onevision import LLAVA_ONEVISION
from svdprune_ext.models.mistral3 import MISTRAL3
from svdprune_ext.models.paligemma import PALIGEMMA
from svdprune_ext.models.qwen_vl import QWEN2_5_VL, QWEN2_VL, QWEN3_VL

FAMILIES = (
    LLAVA,
    VIP_LLAVA,
    LLAVA_NEXT,
    LLAVA_ONEVISION,
    QWEN2_VL,
    QWEN2_5_VL,
    QWEN3_VL,
    INTERNVL,
    PALIGEMMA,
    GEMMA3,
    IDEFICS3,
    SMOLVLM,
    MISTRAL3,
)


# What a model is told by that holds another one.
_WRAPPED = {
    "_orig_mod": "apply comes before torch.compile",
    "get_base_model": "apply takes its get_base_model(), and the adapters stay on",
    "module": "apply takes its module",
}


def supported_models() -> list[str]:
    """Names of the transformers classes that ``apply`` takes."""
    return [family.model_class for family in FAMILIES]


def family_of(model: nn.Module) -> Family:
    """The family of a model.

    Raises:
        ValueError: The model belongs to none.
    """
    names = {cls.__name__ for cls in type(model).__mro__}
    for family in FAMILIES:
        if family.model_class in names:
            return family
    advice = next(
        (what for attribute, what in _WRAPPED.items() if hasattr(model, attribute)),
        "docs/adding-a-model.md says how to add a family",
    )
    raise ValueError(
        f"apply: model must be one of {', '.join(supported_models())}, got {type(model).__name__}; {advice}"
    )
