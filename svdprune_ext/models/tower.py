"""The vision tower's attention, caught on its way without asking the model for it.

The queries and keys of one layer are taken as its projections return them, and the row that is asked for is
worked out from them: the model may go on with any attention kernel, and no matrix of tokens by tokens is
kept. The layer is that whose output the features are, or the last of these where they are several layers'.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from svdprune_ext.methods.attention import attention_received, attention_row


class TowerAttention:
    """What the patches of each tile are given by [CLS], or receive on average.

    Args:
        base: The base model.
        tower: Its vision tower.
        only_cls: Refuse a tower without [CLS]; else its patches' mean received attention is taken.

    Raises:
        ValueError: The tower has no [CLS], or no attention layers with a ``q_proj`` and a ``k_proj``.
    """

    def __init__(self, base: Any, tower: nn.Module, only_cls: bool) -> None:
        self._has_cls = any(hasattr(module, "class_embedding") for module in tower.modules())
        if only_cls and not self._has_cls:
            raise ValueError(
                f"apply: method must be one that works without [CLS], as {type(tower).__name__} has none"
            )
        self._config = base.config
        layers = _attention_layers(tower)
        # The hidden states are the embeddings and each layer's output.
        states = len(layers) + 1
        of_features = self._features_from(None)
        last = max(state % states for state in of_features)
        if last == 0:
            raise ValueError(
                f"apply: the model's vision_feature_layer must name a layer, got {of_features}"
            )
        self._layer: Any = layers[last - 1]
        self._query: Tensor | None = None
        self._key: Tensor | None = None

    def install(self) -> list[Callable[[], None]]:
        """Puts the hooks in place, and returns what undoes it."""
        return [
            self._layer.q_proj.register_forward_hook(self._catch_query).remove,
            self._layer.k_proj.register_forward_hook(self._catch_key).remove,
        ]

    def take(self, call: dict[str, Any], patches: int) -> Tensor:
        """Attention [tiles, patches], float32 or float64, of the call of the encoder under way.

        Args:
            call: The arguments of ``get_image_features``.
            patches: Number of rows of each tile's features.
        """
        asked = self._features_from(call.get("vision_feature_layer"))
        if asked != self._features_from(None):
            raise ValueError(
                f"svdprune_ext: vision_feature_layer must be the config's where the method goes by "
                f"attention, got {asked}"
            )
        assert self._query is not None
        assert self._key is not None
        query, key = self._by_head(self._query), self._by_head(self._key)
        self._query = self._key = None
        scale = getattr(self._layer, "scale", query.shape[-1] ** -0.5)
        if self._has_cls:
            given = attention_row(query[:, :, 0], key, scale)[:, 1:]
        else:
            given = attention_received(query, key, scale)
        if given.shape[1] != patches:
            raise ValueError(
                f"svdprune_ext: the features must be those of the {given.shape[1]} patches where the method "
                f"goes by attention, without [CLS], got {patches}"
            )
        return given

    def _features_from(self, given: int | list[int] | None) -> list[int]:
        if given is None:
            given = getattr(self._config, "vision_feature_layer", -1)
        return [given] if isinstance(given, int) else list(given)

    def _by_head(self, rows: Tensor) -> Tensor:
        """[B, L, heads * d] -> [B, heads, L, d]."""
        by_head: Tensor = rows.unflatten(-1, (self._layer.num_heads, -1))
        return by_head.transpose(1, 2)

    def _catch_query(self, module: nn.Module, args: Any, output: Tensor) -> None:
        self._query = output[:, :1] if self._has_cls else output

    def _catch_key(self, module: nn.Module, args: Any, output: Tensor) -> None:
        self._key = output


def _attention_layers(tower: nn.Module) -> list[Any]:
    for layers in tower.modules():
        if isinstance(layers, nn.ModuleList) and len(layers) > 0:
            found = [getattr(layer, "self_attn", None) for layer in layers]
            attention = [a for a in found if hasattr(a, "q_proj") and hasattr(a, "k_proj")]
            if len(attention) == len(layers):
                return attention
    raise ValueError(
        f"apply: method must be one that does without attention, as {type(tower).__name__} has no layers "
        "with a q_proj and a k_proj"
    )
