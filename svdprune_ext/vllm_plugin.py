"""vLLM, out of tree: registers a LLaVA that prunes its vision tokens. See docs/vllm.md.

vLLM finds ``register`` by the entry-point group ``vllm.general_plugins`` and calls it in each of its
processes. Nothing here imports vLLM before that; what does is in ``svdprune_ext.vllm_llava``.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

from torch import Tensor

from svdprune_ext.ops import prune

ARCHITECTURE = "SVDPruneLlavaForConditionalGeneration"
_CLASS = f"svdprune_ext.vllm_llava:{ARCHITECTURE}"
_log = logging.getLogger(__name__)


@cache
def register() -> None:
    """Makes ``ARCHITECTURE`` known to vLLM; where that fails, logs one line and leaves vLLM as it is.

    Other architectures, the plain LLaVA among them, are untouched. Calling it again does nothing.
    """
    try:
        from vllm import ModelRegistry

        if ARCHITECTURE not in ModelRegistry.get_supported_archs():
            # By name, so that no model code is imported, and no CUDA touched, before it is asked for.
            ModelRegistry.register_model(ARCHITECTURE, _CLASS)
    except Exception as error:  # whatever another version of vLLM may raise: serving goes on
        _log.warning("svdprune_ext: %s is not available in this vLLM: %r", ARCHITECTURE, error)


@dataclass(frozen=True)
class PruneSettings:
    """How the registered model prunes; as the arguments of ``svdprune_ext.prune``."""

    keep: int = 32
    variance: float = 0.9
    center: bool = False
    solver: str = "auto"
    select: str = "topk"

    def tokens(self, unpruned: int) -> int:
        """Placeholders of an image in the prompt, which are as many as the tokens kept.

        Args:
            unpruned: Tokens that the vision tower gives for the image.

        Raises:
            ValueError: ``keep`` is more.
        """
        if self.keep > unpruned:
            raise ValueError(
                f"svdprune_ext: keep must be in [1, {unpruned}], the model's vision tokens for an "
                f"image, got {self.keep}"
            )
        return self.keep


def settings_of(config: Any, environment: Mapping[str, str] = os.environ) -> PruneSettings:
    """Reads the settings off vLLM's ``hf_overrides`` and the environment.

    Args:
        config: The model's configuration. ``hf_overrides={"svdprune": {"keep": 32}}`` makes its attribute
            ``svdprune`` a dict of ``PruneSettings``' fields.
        environment: ``SVDPRUNE_KEEP`` and so on, for fields that the dict does not have.

    Raises:
        ValueError: A field is unknown, or its value is out of range.
    """
    given = getattr(config, "svdprune", None) or {}
    names = [field.name for field in fields(PruneSettings)]
    unknown = ", ".join(sorted(set(given) - set(names)))
    if unknown:
        raise ValueError(f"svdprune_ext: svdprune must hold {', '.join(names)} only, got {unknown}")
    values: dict[str, Any] = {}
    for field in fields(PruneSettings):
        variable = f"SVDPRUNE_{field.name.upper()}"
        if field.name in given:
            values[field.name] = given[field.name]
        elif variable in environment:
            values[field.name] = _parse(variable, environment[variable], type(field.default))
    settings = PruneSettings(**values)
    _check(
        "keep", type(settings.keep) is int and settings.keep >= 1, "an int from 1 on", settings.keep
    )
    in_range = isinstance(settings.variance, float | int) and 0 < settings.variance <= 1
    _check("variance", in_range, "in (0, 1]", settings.variance)
    _check("center", isinstance(settings.center, bool), "true or false", settings.center)
    _check("select", settings.select in ("topk", "pivoted"), "topk or pivoted", settings.select)
    alone = settings.select == "topk" or not {"variance", "solver"} & set(values)
    _check("variance, solver", alone, "left out for select pivoted", sorted(values))
    return settings


def prune_features(features: Tensor, settings: PruneSettings) -> Tensor:
    """Prunes what the vision tower returns, ahead of the projector.

    Args:
        features: Of each image, [images, N, D].
        settings: From ``settings_of``.

    Returns:
        The kept tokens [images, keep, D], in their original order.
    """
    return prune(
        features,
        settings.keep,
        variance=settings.variance,
        center=settings.center,
        solver=settings.solver,
        select=settings.select,
    ).tokens


def _parse(variable: str, text: str, kind: type) -> Any:
    try:
        return (
            {"true": True, "1": True, "false": False, "0": False}[text.lower()]
            if kind is bool
            else kind(text)
        )
    except (KeyError, ValueError):
        raise ValueError(
            f"svdprune_ext: {variable} must be of type {kind.__name__}, got {text!r}"
        ) from None


def _check(name: str, right: bool, expected: str, got: object) -> None:
    if not right:
        raise ValueError(f"svdprune_ext: {name} must be {expected}, got {got!r}")
