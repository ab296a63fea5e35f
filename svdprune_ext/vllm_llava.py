"""vLLM's LLaVA with pruned vision tokens; imported by vLLM, through ``svdprune_ext.vllm_plugin``.

Modifications: the vision tower's features are pruned before the projector, and a prompt has as many
placeholders for an image as tokens are kept. Images handed over as embeddings are not pruned.
"""

from __future__ import annotations

from typing import Any

import torch
from vllm.model_executor.models.llava import (
    LlavaDummyInputsBuilder,
    LlavaForConditionalGeneration,
    LlavaMultiModalProcessor,
    LlavaProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY

from svdprune_ext.vllm_plugin import prune_features, settings_of

# What is overridden here must be there: else the model would run unpruned, or with another count of tokens
# than its prompt has placeholders.
for _owner, _name in (
    (LlavaForConditionalGeneration, "_process_image_pixels"),
    (LlavaProcessingInfo, "get_num_image_tokens"),
    (LlavaProcessingInfo, "model_id"),
):
    if not hasattr(_owner, _name):
        raise ImportError(
            f"svdprune_ext: vLLM's {_owner.__name__} must have {_name}, and this version has not; "
            "see docs/vllm.md for the versions that this was written for"
        )
# Until 0.28 the Hugging Face processor wrote the placeholders, as many as there are unpruned tokens.
if hasattr(LlavaMultiModalProcessor, "_hf_processor_applies_updates"):
    raise ImportError("svdprune_ext: vLLM must be of version 0.29 or later; see docs/vllm.md")


class _Info(LlavaProcessingInfo):  # type: ignore[misc]
    @property
    def model_id(self) -> str:
        """Distinguishes what vLLM caches for an image by what was kept of it, too."""
        return f"{super().model_id} {settings_of(self.get_hf_config())}"

    def get_num_image_tokens(self, *, image_width: int, image_height: int) -> int:
        config = self.get_hf_config()
        if config.vision_config.model_type == "pixtral":
            raise ValueError("svdprune_ext: vision_config must be of CLIP or SigLIP, got 'pixtral'")
        unpruned = super().get_num_image_tokens(image_width=image_width, image_height=image_height)
        return settings_of(config).tokens(unpruned)


@MULTIMODAL_REGISTRY.register_processor(
    LlavaMultiModalProcessor, info=_Info, dummy_inputs=LlavaDummyInputsBuilder
)
class SVDPruneLlavaForConditionalGeneration(LlavaForConditionalGeneration):  # type: ignore[misc]
    """LLaVA whose projector and language model get the tokens of highest leverage alone."""

    # vLLM would count as many tokens in the tower as in the projector.
    supports_tower_connector_lora = False

    def _process_image_pixels(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        features = super()._process_image_pixels(*args, **kwargs)
        return prune_features(features, settings_of(self.config))
