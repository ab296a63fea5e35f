"""Attention masks by slot of the cache, where the model and its caller count positions.

Shapes: B rows, q queries by position, M of them that remain, S slots after the step, F positions so far.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from svdprune_ext.models.sequence import Layout, Packing

FULL, SLIDING = "full_attention", "sliding_attention"  # kinds of layers, as transformers calls them


def says_who_sees_whom(mask: Any) -> bool:
    """Whether a mask is [B, heads, q, keys], or a dict that holds such."""
    if isinstance(mask, dict):
        return any(isinstance(part, Tensor) for part in mask.values())
    return isinstance(mask, Tensor) and mask.dim() == 4


def refuse_other_masks(mask: Any) -> None:
    """Refuses a mask whose rows and columns cannot be told, as flex attention's.

    Raises:
        ValueError: It is not None, a tensor, or a dict of these.
    """
    for part in mask.values() if isinstance(mask, dict) else [mask]:
        if part is not None and not isinstance(part, Tensor):
            raise ValueError(
                "svdprune_ext: the decoder's attention_mask must be made of tensors where vision tokens are "
                f"pruned, as eager and sdpa attention have it, got {type(part).__name__}"
            )


def padding_by_slot(mask: Tensor | None, layout: Layout) -> Tensor:
    """[B, F] or nothing -> [B, S]; never None, as a gap in the positions then starts a new sequence."""
    if mask is None:
        rows = layout.index.shape[0]
        mask = layout.index.new_ones(rows, layout.positions)
    return layout.slot_mask(mask.to(layout.index.device))


def padding_of(mask: Any) -> Tensor:
    """[B, heads, q, keys], or a dict with one: what the last query sees, int64 [B, keys] of 0 and 1."""
    last: Tensor = (mask[FULL] if isinstance(mask, dict) else mask)[:, 0, -1]
    return (last if last.dtype == torch.bool else last == 0).long()


def attention_by_slot(
    mask: Any, packing: Packing, after: Layout, window: int | None, capacity: int | None
) -> Any:
    """The mask of a step that drops tokens, where the decoder was handed who sees whom.

    Args:
        mask: [B or 1, heads, q, at least F], or a dict of such by kind of layer; a None in it is causal.
        packing: Which queries remain.
        after: The layout of the cache after the step.
        window: Length of the decoder's sliding window. It counts slots, as the cache does.
        capacity: Slots of a static cache, used or not.

    Returns:
        The same by slot, [B, heads, M, S or capacity].
    """
    if isinstance(mask, Tensor):
        return _gather(mask, packing, after, capacity)
    full, sliding = mask.get(FULL), mask.get(SLIDING)
    full = _causal(sliding) if full is None else full
    by_slot = {FULL: _gather(full, packing, after, capacity)}
    if sliding is not None:
        assert window is not None
        slot = torch.arange(by_slot[FULL].shape[-1], device=full.device)
        queries = slot[after.index.shape[1] - packing.index.shape[1] : after.index.shape[1]]
        near = _only(by_slot[FULL], slot[None, :] > queries[:, None] - window)
        if capacity is not None:  # a static cache of sliding layers is as long as the window
            capacity = max(after.index.shape[1], min(window, capacity))
            near = near[..., :capacity]
        # Nearer by slot than by position: what either way of counting lets see.
        by_slot[SLIDING] = torch.maximum(_gather(sliding, packing, after, capacity), near)
    return by_slot


def _gather(mask: Tensor, packing: Packing, after: Layout, capacity: int | None) -> Tensor:
    queries, slots = packing.kept.shape[1], after.index.shape[1]
    if mask.shape[-2] != queries or mask.shape[-1] < after.positions:
        raise ValueError(
            f"svdprune_ext: attention_mask must be [..., {queries}, at least {after.positions}] where vision "
            f"tokens are pruned, got {list(mask.shape)}"
        )
    mask = mask.expand(after.index.shape[0], -1, -1, -1)
    rows = packing.index[:, None, :, None].expand(-1, mask.shape[1], -1, mask.shape[-1])
    columns = after.index[:, None, None, :].expand(-1, mask.shape[1], rows.shape[2], -1)
    picked = mask.gather(2, rows).gather(3, columns)
    picked = _only(picked, after.valid[:, None, None, :])
    unused = 0 if capacity is None else capacity - slots
    return torch.nn.functional.pad(picked, (0, unused), value=_never(mask))


def _only(mask: Tensor, allowed: Tensor) -> Tensor:
    return torch.where(allowed, mask, _never(mask))


def _never(mask: Tensor) -> float:
    return False if mask.dtype == torch.bool else torch.finfo(mask.dtype).min


def _causal(like: Tensor) -> Tensor:
    queries, keys = like.shape[-2:]
    place = torch.arange(keys, device=like.device)
    allowed = place[None, :] <= place[keys - queries :, None]
    always = (
        torch.ones_like(like[:1, :1])
        if like.dtype == torch.bool
        else torch.zeros_like(like[:1, :1])
    )
    return _only(always, allowed)
