"""lmms-eval: registers its LLaVA, pruned. See docs/lmms-eval.md.

lmms-eval finds ``manifests`` by the entry-point group ``lmms_eval.models``. Nothing here imports lmms-eval
before that; the model itself is in ``svdprune_ext.lmms_eval_llava``.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from typing import Any

import torch

from svdprune_ext.models import apply

MODEL = "llava_hf_svdprune"
_MODULE = "svdprune_ext.lmms_eval_llava"
_OF_APPLY = [name for name in inspect.signature(apply).parameters if name != "model"]


def manifests() -> Any:
    """What lmms-eval is to know of ``MODEL``: its chat and its plain prompts, as for its own ``llava_hf``."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(
        model_id=MODEL,
        simple_class_path=f"{_MODULE}.LlavaHfSVDPruneSimple",
        chat_class_path=f"{_MODULE}.LlavaHfSVDPrune",
    )


def split_arguments(
    given: Mapping[str, Any], of_model: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tells the arguments of ``apply`` from those of lmms-eval's own model.

    Args:
        given: As lmms-eval reads ``--model_args``; "none" stands for None, and ``options`` may be JSON.
        of_model: The parameters of lmms-eval's model, by name.

    Returns:
        Arguments of lmms-eval's model, and arguments of ``apply``.

    Raises:
        ValueError: A name is unknown, or ``options`` is no JSON.
    """
    unknown = sorted(set(given) - set(_OF_APPLY) - set(of_model))
    if unknown:
        raise ValueError(
            f"{MODEL}: model_args must be of svdprune_ext.apply ({', '.join(_OF_APPLY)}) or of lmms-eval's "
            f"llava_hf ({', '.join(of_model)}), got {', '.join(unknown)}"
        )
    pruning = {name: _read(name, value) for name, value in given.items() if name in _OF_APPLY}
    return {name: value for name, value in given.items() if name not in pruning}, pruning


def check_pruning(config: Any, pruning: Mapping[str, Any]) -> None:
    """Refuses what ``apply`` would refuse, on a model without weights, before those are loaded.

    Args:
        config: The model's transformers configuration.
        pruning: Arguments of ``apply``.

    Raises:
        ValueError: The model is not supported, or an argument is out of its range.
    """
    from transformers import AutoModelForImageTextToText

    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    apply(model, **pruning).remove()


def _read(name: str, value: Any) -> Any:
    if isinstance(value, str) and value.lower() == "none":
        return None
    if name == "options" and isinstance(value, str):
        try:
            return json.loads(value)
        except json.JSONDecodeError as error:
            raise ValueError(f"{MODEL}: options must be a JSON object, got {value!r}") from error
    return value
