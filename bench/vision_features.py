"""The features that a checkpoint's vision tower makes of a photograph, for any common family of models."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from svdprune_ext.demo.bundle import pick_device

# What families call the module between vision tower and language model, where its input is one token a
# row: LLaVA's kin, PaliGemma, Gemma 3, InternVL; Idefics 3 and SmolVLM.
_PROJECTORS = ("multi_modal_projector", "connector")

_BEFORE_PROJECTOR = "before the projector"
_RETURNED = "as get_image_features returns them"
_OF_TOWER = "second-to-last layer, patches alone"


class NoFeatures(ValueError):
    """The checkpoint cannot be loaded, or gives no tokens; the message says why."""


@dataclass(frozen=True)
class VisionModel:
    """A model that sees, and what goes before it.

    Attributes:
        name: What to call it.
        model: The whole VLM, or a bare vision tower, in evaluation mode.
        image_processor: Turns photographs into the model's input.
    """

    name: str
    model: Any
    image_processor: Any

    @property
    def source(self) -> str:
        """Which features these are, in words."""
        is_vlm = hasattr(self.model, "get_image_features")
        if is_vlm and _projector(self.model) is not None:
            return _BEFORE_PROJECTOR
        return _RETURNED if is_vlm and not hasattr(self.model, "vision_model") else _OF_TOWER

    @torch.inference_mode()
    def features(self, photo: Any) -> list[Tensor]:
        """What would be pruned for a photograph.

        A bare vision tower, or CLIP's and SigLIP's pair of towers, gives the patches of its second-to-last
        layer, as LLaVA-1.5 takes them; a VLM what its projector gets, and where that has no known name,
        what ``get_image_features`` returns.

        Args:
            photo: A PIL image.

        Returns:
            Features [N, D] on the CPU in the model's dtype: one, or one for each tile that the
            processor cuts.

        Raises:
            NoFeatures: The model gives no row for each token.
        """
        inputs = {
            name: value.to(
                self.model.device, self.model.dtype if value.is_floating_point() else None
            )
            for name, value in self.image_processor(images=[photo], return_tensors="pt").items()
            if isinstance(value, Tensor)
        }
        if self.source == _OF_TOWER:
            found = _of_tower(getattr(self.model, "vision_model", self.model), inputs)
        else:
            found = _of_vlm(self.model, inputs)
        images = [x.cpu() for x in _split(found)]
        if not images or any(x.dim() != 2 for x in images):
            raise NoFeatures(f"{type(self.model).__name__} gives no [N, D] features of an image")
        return images


def load(name: str) -> VisionModel:
    """Loads a checkpoint the ordinary transformers way.

    Args:
        name: Folder or hub id of a VLM (``*ForConditionalGeneration`` with ``get_image_features``) or of
            a vision tower such as CLIP's or SigLIP's.

    Returns:
        The model, on the device that the demonstration would take.

    Raises:
        NoFeatures: It cannot be loaded.
    """
    from transformers import (
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
        AutoConfig,
        AutoImageProcessor,
        AutoModel,
        AutoModelForImageTextToText,
    )

    if name.startswith(("/", "./", "../", "~")) and not Path(name).is_dir():
        raise NoFeatures(f"no such folder: {name}")
    try:
        config = AutoConfig.from_pretrained(name)
        is_vlm = type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
        loader = AutoModelForImageTextToText if is_vlm else AutoModel
        model = loader.from_pretrained(name, dtype="auto")
        processor = AutoImageProcessor.from_pretrained(name)
    except (OSError, ValueError, RuntimeError, ImportError, KeyError) as error:
        reason = " ".join(str(error).split())[:300]
        raise NoFeatures(f"{name} cannot be loaded as a folder or hub id ({reason})") from error
    return VisionModel(name, model.eval().to(pick_device()), processor)


def _of_tower(tower: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    # [1, N, D]: hidden states without [CLS] and registers, which stand before the patches.
    states = tower(pixel_values=inputs["pixel_values"], output_hidden_states=True).hidden_states
    config: Any = tower.config
    if states is None or states[-2].dim() != 3 or not hasattr(config, "patch_size"):
        raise NoFeatures(f"{type(tower).__name__} has no hidden states of patches [images, N, D]")
    height, width = inputs["pixel_values"].shape[-2:]
    patches = (height // config.patch_size) * (width // config.patch_size)
    return states[-2][:, -patches:]


def _of_vlm(model: nn.Module, inputs: dict[str, Tensor]) -> Any:
    caught: list[Any] = []
    projector = _projector(model)
    hook = None
    if projector is not None:
        hook = projector.register_forward_pre_hook(
            lambda _, arguments, named: caught.append((*arguments, *named.values())[0]),
            with_kwargs=True,
        )
    try:
        known = _parameters(model)
        result = model.get_image_features(**{k: v for k, v in inputs.items() if k in known})
    finally:
        if hook is not None:
            hook.remove()
    return caught or getattr(result, "pooler_output", result)


def _projector(model: nn.Module) -> nn.Module | None:
    for name, module in model.named_modules():
        if name.rpartition(".")[2] in _PROJECTORS:
            return module
    return None


def _parameters(model: nn.Module) -> set[str]:
    # The outer method hands on what the inner one names.
    names: set[str] = set()
    for owner in (model, getattr(model, "model", None)):
        with suppress(AttributeError):
            names |= set(inspect.signature(owner.get_image_features).parameters)
    return names


def _split(found: Any) -> Iterable[Tensor]:
    # Into matrices, however many lists and leading dimensions there are.
    if isinstance(found, Tensor) and found.dim() <= 2:
        yield found
    elif isinstance(found, (list, tuple, Tensor)):
        for part in found:
            yield from _split(part)
