"""The layout of a cache that holds pruned prompts, as it is noted there."""

from __future__ import annotations

from typing import Any

from svdprune_ext.models.cache import LAYOUT, forget, noted
from svdprune_ext.models.sequence import Layout


def noted_layout(cache: Any, new: int) -> Layout | None:
    """The layout noted on a cache, grown to its present length; None if nothing was dropped.

    Args:
        cache: The key-value cache, or None.
        new: Number of positions that are to be added.
    """
    layout: Layout | None = noted(cache, LAYOUT)
    if layout is None or (layout.static_mask is not None and new == 1):
        return layout
    slots = int(cache.get_seq_length())
    if slots == 0:  # it was reset
        forget(cache, LAYOUT)
        return None
    if layout.static_mask is not None:
        raise ValueError(
            f"svdprune_ext: a static cache that holds a pruned prompt takes one token at a time, got {new}"
        )
    if slots < layout.index.shape[1]:
        return layout.cropped_to(slots)
    return layout.grown_to(slots)


def already_seen(shown: int, new: int, layout: Layout) -> int:
    """How many of the ``new`` leading positions the cache holds already.

    ``generate`` with a kept cache skips as many ids as the cache has slots, which is less than the number
    of positions they stand for; it then shows the last ones again.
    """
    repeated = layout.positions + new - shown
    slots_missing = layout.positions - layout.index.shape[1]
    if repeated not in (0, slots_missing) or repeated >= new:
        raise ValueError(
            f"svdprune_ext: attention_mask or position_ids must cover the {layout.positions} positions seen "
            f"so far and the {new} new ones, {layout.positions + new} in all, got {shown}"
        )
    return repeated
