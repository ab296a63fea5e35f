"""The key-value cache among what a model is called with and what it returns.

transformers calls it ``cache`` from 5.24 on, and ``past_key_values`` before.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
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


Take = Callable[[Tensor], Tensor]  # of a tensor with a row for each of the cache's, some rows


class OfRows(Protocol):
    """What is known of each row of a cache."""

    def of_rows(self, take: Take) -> OfRows:
        """The same of other rows."""


LAYOUT = "layout"  # note of the positions that the slots hold,
LAYER_SLOTS = "layer_slots"  # and of the slots of each layer
_NOTES = "_svdprune_notes"  # attribute on the cache
_Notes = dict[str, OfRows]


def note(cache: Any, name: str, value: OfRows) -> None:
    """Notes something of the rows of a cache on the cache itself, where it follows them.

    Modifications: an attribute of the cache, and the methods that empty it, or reorder, repeat or select its
    rows, on the instance. They hold the cache's layers, not the cache: it goes when nobody needs it, as
    before.
    """
    notes: _Notes | None = getattr(cache, _NOTES, None)
    if notes is None:
        notes = {}
        setattr(cache, _NOTES, notes)
        for method in (reset, reorder_cache, batch_repeat_interleave, batch_select_indices):
            setattr(cache, method.__name__, partial(method, cache.layers, notes))
    notes[name] = value


def noted(cache: Any, name: str) -> Any:
    """What was noted, or None."""
    notes: _Notes = getattr(cache, _NOTES, {})
    return notes.get(name)


def forget(cache: Any, name: str) -> None:
    """Drops a note."""
    getattr(cache, _NOTES, {}).pop(name, None)


def reset(layers: list[Any], notes: _Notes) -> None:
    """As ``Cache.reset``, and forgets the notes."""
    for layer in layers:
        layer.reset()
    notes.clear()


def reorder_cache(layers: list[Any], notes: _Notes, beam_idx: Tensor) -> None:
    """As ``Cache.reorder_cache``, and the same to the notes."""
    for layer in layers:
        layer.reorder_cache(beam_idx)
    _take_rows(notes, rows_at(beam_idx))


def batch_repeat_interleave(layers: list[Any], notes: _Notes, repeats: int) -> None:
    """As ``Cache.batch_repeat_interleave``, and the same to the notes."""
    for layer in layers:
        layer.batch_repeat_interleave(repeats)
    _take_rows(notes, lambda rows: rows.repeat_interleave(repeats, dim=0))


def batch_select_indices(layers: list[Any], notes: _Notes, indices: Any) -> None:
    """As ``Cache.batch_select_indices``, and the same to the notes."""
    for layer in layers:
        layer.batch_select_indices(indices)
    _take_rows(notes, rows_at(torch.as_tensor(indices)))


def rows_at(index: Tensor) -> Take:
    """The rows of these numbers, int64 [B'], or where it is true, bool [B]."""
    return lambda rows: rows[index.to(rows.device)]


def _take_rows(notes: _Notes, take: Take) -> None:
    for name, value in notes.items():
        notes[name] = value.of_rows(take)
