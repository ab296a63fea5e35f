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

from svdprune_ext.vllm_plugin import collapse_placeholders, prune_features, settings_of

# What is overridden here must be there: else the model would run unpruned, or with another count of tokens
# than its prompt has placeholders.
for _owner, _name in (
    (LlavaForConditionalGeneration, "_process_image_pixels"),
    (LlavaMultiModalProcessor, "_call_hf_processor"),
    (LlavaMultiModalProcessor, "_hf_processor_applies_updates"),
    (LlavaProcessingInfo, "get_num_image_tokens"),
):
    if not hasattr(_owner, _name):
        raise ImportError(
            f"svdprune_ext: vLLM's {_owner.__name__} must have {_name}, and this version has not; "
            "see docs/vllm.md for the versions that this was written for"
        )


class _Info(LlavaProcessingInfo):  # type: ignore[misc]
    def unpruned_tokens(self, **size: int) -> int:
        return int(super().get_num_image_tokens(**size))

    def get_num_image_tokens(self, *, image_width: int, image_height: int) -> int:
        config = self.get_hf_config()
        if config.vision_config.model_type == "pixtral":
            raise ValueError("svdprune_ext: vision_config must be of CLIP or SigLIP, got 'pixtral'")
        unpruned = self.unpruned_tokens(image_width=image_width, image_height=image_height)
        return settings_of(config).tokens(unpruned)


class _Processor(LlavaMultiModalProcessor):  # type: ignore[misc]
    def _call_hf_processor(self, *args: Any, **kwargs: Any) -> Any:
        outputs = super()._call_hf_processor(*args, **kwargs)
        side = self.info.get_hf_config().vision_config.image_size
        (ids,) = outputs["input_ids"].tolist()
        outputs["input_ids"] = torch.tensor(
            [
                collapse_placeholders(
                    ids,
                    self.info.get_hf_config().image_token_index,
                    self.info.unpruned_tokens(image_width=side, image_height=side),
                )
            ]
        )
        return outputs

    def _hf_processor_applies_updates(self, *args: Any, **kwargs: Any) -> bool:
        return False


@MULTIMODAL_REGISTRY.register_processor(
    _Processor, info=_Info, dummy_inputs=LlavaDummyInputsBuilder
)
class SVDPruneLlavaForConditionalGeneration(LlavaForConditionalGeneration):  # type: ignore[misc]
    """LLaVA whose projector and language model get the tokens of highest leverage alone."""

    def _process_image_pixels(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        features = super()._process_image_pixels(*args, **kwargs)
        return prune_features(features, settings_of(self.config))
