"""The key-value cache among what a model is called with and what it returns.

transformers calls it ``cache`` from 5.24 on, and ``past_key_values`` before.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

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


class OfRows(Protocol):
    """What is known of each row of a cache."""

    def of_rows(self, index: Tensor) -> OfRows:
        """The same of these rows, int64 [B']."""

    @property
    def num_rows(self) -> int:
        """B."""


LAYOUT = "_svdprune_layout"  # attributes on the cache: of the positions that its slots hold,
LAYER_SLOTS = "_svdprune_layer_slots"  # and of the slots of its layers


def note(cache: Any, name: str, value: OfRows) -> None:
    """Notes something of the rows of a cache on the cache itself, where it follows them.

    Modifications: an attribute of the cache, and the methods that reorder, repeat or select its rows, on the
    instance.
    """
    setattr(cache, name, value)
    for method in (reorder_cache, batch_repeat_interleave, batch_select_indices):
        if hasattr(type(cache), method.__name__):
            setattr(cache, method.__name__, partial(method, cache))  # a deep copy gets its own


def reorder_cache(self: Any, beam_idx: Tensor) -> None:
    """The cache's own, and the same to its notes."""
    type(self).reorder_cache(self, beam_idx)
    _take_rows(self, lambda rows: rows[beam_idx.to(rows.device)])


def batch_repeat_interleave(self: Any, repeats: int) -> None:
    """The cache's own, and the same to its notes."""
    type(self).batch_repeat_interleave(self, repeats)
    _take_rows(self, lambda rows: rows.repeat_interleave(repeats))


def batch_select_indices(self: Any, indices: Any) -> None:
    """The cache's own, and the same to its notes."""
    type(self).batch_select_indices(self, indices)
    _take_rows(self, lambda rows: rows[indices])


def _take_rows(cache: Any, select: Any) -> None:
    for name in (LAYOUT, LAYER_SLOTS):
        noted: OfRows | None = getattr(cache, name, None)
        if noted is not None:
            setattr(cache, name, noted.of_rows(select(torch.arange(noted.num_rows))))
