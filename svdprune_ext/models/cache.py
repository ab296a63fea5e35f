"""The key-value cache among what a model is called with and what it returns.

transformers calls it ``cache`` from 5.24 on, and ``past_key_values`` before.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

_NAMES = ("cache", "past_key_values")


def cache_among(kwargs: Mapping[str, Any]) -> Any:
    """The cache that a model or its decoder was called with, or None."""
    return next((kwargs[name] for name in _NAMES if kwargs.get(name) is not None), None)


def cache_returned(output: Any) -> Any:
    """The cache in what a model or its decoder returned, a ``ModelOutput``; None without one."""
    return output.get("cache") if "cache" in output else output.get("past_key_values")


def cache_argument(model: Any) -> str:
    """The name of the argument that takes a cache."""
    parameters = inspect.signature(model.forward).parameters
    return next(name for name in _NAMES if name in parameters)


def capacity_of(cache: Any) -> int | None:
    """Number of slots of each layer of a static cache; None for one that grows."""
    return int(cache.get_max_length()) if getattr(cache, "is_compileable", False) else None
