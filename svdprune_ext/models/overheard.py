"""Overhearing q and k of a few attention modules, whose own attention runs as it would.

transformers looks up the attention function by the name in the module's config. The modules to overhear get a
copy of the config with a name of ours; the function behind it calls back, then runs the model's own. The
model's config, masks and all other layers stay as they are.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor

NAME = "svdprune_overheard"
Listener = Callable[[Tensor, Tensor, float], None]  # query, key after RoPE and cache; scale


def overhear(module: Any, listener: Listener) -> Callable[[], None]:
    """Calls ``listener`` at each call of the module's attention.

    Modifications: ``config`` of the module, on the instance, which also gets an attribute.

    Args:
        module: An attention module of transformers.
        listener: Gets query [B, H, M, d] and key [B, G, S, d], after RoPE and cache, and the scale.

    Returns:
        What undoes it.
    """
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, _attention)
    shared = module.config
    own = copy.copy(shared)
    own._attn_implementation = NAME
    module.config = own
    # On the module itself: a compiled program cannot look it up in a weak dictionary.
    eager = getattr(inspect.getmodule(type(module)), "eager_attention_forward", None)
    module._svdprune_overheard = (shared, eager, listener)

    def remove() -> None:
        module.config = shared
        del module._svdprune_overheard

    return remove


def _attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **options: Any
) -> Any:
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    shared, eager, listener = module._svdprune_overheard
    scale = options.get("scaling")
    listener(query, key, query.shape[-1] ** -0.5 if scale is None else scale)
    run = ALL_ATTENTION_FUNCTIONS.get_interface(shared._attn_implementation, eager)
    return run(module, query, key, value, mask, **options)
