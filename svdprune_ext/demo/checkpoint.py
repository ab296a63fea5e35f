"""A real LLaVA checkpoint, loaded the ordinary transformers way."""

from __future__ import annotations

from pathlib import Path

import torch

from svdprune_ext.demo.bundle import Bundle, num_vision_tokens, pick_device
from svdprune_ext.demo.settings import Settings, SettingsError


def load_checkpoint(settings: Settings) -> Bundle:
    """Loads ``settings.model``, a folder or a hub id.

    Args:
        settings: Checked settings; ``keep`` is checked against the checkpoint here.

    Returns:
        The model and its processor.

    Raises:
        SettingsError: It cannot be loaded, is no LLaVA, or has too few vision tokens.
    """
    from transformers import AutoConfig, AutoProcessor, LlavaForConditionalGeneration

    name = settings.model
    assert name is not None
    if name.startswith(("/", "./", "../", "~")) and not Path(name).is_dir():
        raise SettingsError(f"--model: no such folder: {name}")
    try:
        config = AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise _cannot_load(name, error) from error
    if config.model_type != "llava":
        raise SettingsError(
            f"--model: the demo takes LLaVA checkpoints (model_type 'llava'), and {name} is "
            f"{config.model_type!r}"
        )
    settings.check_keep(num_vision_tokens(config))
    dtype = "auto" if settings.dtype == "auto" else getattr(torch, settings.dtype)
    try:
        processor = AutoProcessor.from_pretrained(name)
        model = LlavaForConditionalGeneration.from_pretrained(name, dtype=dtype)
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        raise _cannot_load(name, error) from error
    return Bundle(model.eval().to(pick_device()), processor, name, meaningful=True)


def _cannot_load(name: str, error: Exception) -> SettingsError:
    reason = " ".join(str(error).split())
    return SettingsError(f"--model: {name} cannot be loaded as a folder or hub id ({reason[:300]})")
