"""Taking dropped tokens out of a padded batch of sequences, and what that does to mask and positions.

Shapes: B sequences, q new positions, M slots that remain of them, C slots in the cache, F positions that
the caller has shown the model so far (C <= F: dropped positions have no slot).

Note [packing to the right]
Rows may drop different numbers of tokens. What remains of a row stands at its right end, in its
original order, so the last slot is the row's last position and generation reads it there, as
with left padding; the slots left over at the left are filled, and masked.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from svdprune_ext.models.cache import Take


@dataclass(frozen=True)
class Packing:
    """Which positions of a step remain.

    Attributes:
        index: Position that each slot holds, int64 [B, M].
        valid: Whether the slot holds a kept position, not a filler, bool [B, M].
        kept: Whether each position remains, bool [B, q].
    """

    index: Tensor
    valid: Tensor
    kept: Tensor

    @classmethod
    def dropping(cls, dropped: Tensor, most_kept: int) -> Packing:
        """Packs to the right; see the note above. ``most_kept``: M > 0, at least what any row keeps."""
        kept = ~dropped
        order = torch.argsort(kept.long(), dim=1, stable=True)
        index = order[:, order.shape[1] - most_kept :]
        return cls(index, kept.gather(1, index), kept)

    def pack(self, embeddings: Tensor) -> Tensor:
        """[B, q, H] -> [B, M, H]; fillers are zeros."""
        packed = take_rows(embeddings, self.index)
        return torch.where(self.valid.unsqueeze(-1), packed, packed.new_zeros(()))

    def unpack(self, hidden: Tensor) -> Tensor:
        """[B, M, H] -> [B, q, H]; a dropped position repeats the kept one before it."""
        fillers = self.index.shape[1] - self.kept.sum(1, keepdim=True)
        slot = torch.maximum(self.kept.cumsum(1) - 1, torch.zeros_like(fillers)) + fillers
        slot = slot.clamp_max(self.index.shape[1] - 1)  # of a row that keeps nothing: its filler
        return take_rows(hidden, slot.to(hidden.device))


def take_rows(x: Tensor, index: Tensor) -> Tensor:
    """[B, q, H] at int64 [B, M] -> [B, M, H]; whole rows are copied, where gather goes by element."""
    first = torch.arange(len(x), device=index.device).unsqueeze(1) * x.shape[1]
    rows = x.flatten(0, 1).index_select(0, (index + first).flatten())
    return rows.view(*index.shape, x.shape[-1])


@dataclass(frozen=True)
class Layout:
    """What the slots of a key-value cache hold, once tokens were dropped on the way into it.

    Slots after ``index`` hold the positions after ``positions``, one by one.

    Attributes:
        index: Position that each slot holds, int64 [B, slots].
        valid: Whether the slot holds a position at all, bool [B, slots].
        positions: Number of positions shown to the model when this was noted.
        dropped: How many of them each row dropped, int64 [B, 1].
        static_mask: Where the cache is static: the attention mask of every later token, which sees all
            slots after these as they are filled, int64 [B, all slots].
    """

    index: Tensor
    valid: Tensor
    positions: int
    dropped: Tensor
    static_mask: Tensor | None = None

    def of_rows(self, take: Take) -> Layout:
        """The layout of other rows of the cache."""
        return replace(
            self,
            index=take(self.index),
            valid=take(self.valid),
            dropped=take(self.dropped),
            static_mask=None if self.static_mask is None else take(self.static_mask),
        )

    @classmethod
    def full(cls, rows: int, slots: int, device: torch.device) -> Layout:
        """Nothing dropped yet."""
        index = torch.arange(slots, device=device).expand(rows, -1)
        zeros = torch.zeros(rows, 1, dtype=torch.int64, device=device)
        return cls(index, torch.ones_like(index, dtype=torch.bool), slots, zeros)

    def grown_to(self, slots: int) -> Layout:
        """The layout of the same cache, now with ``slots`` slots."""
        new = slots - self.index.shape[1]
        if new == 0:
            return self
        rows, device = self.index.shape[0], self.index.device
        tail = torch.arange(self.positions, self.positions + new, device=device).expand(rows, -1)
        return Layout(
            torch.cat([self.index, tail], 1),
            torch.cat([self.valid, torch.ones_like(tail, dtype=torch.bool)], 1),
            self.positions + new,
            self.dropped,
        )

    def cropped_to(self, slots: int) -> Layout:
        """The layout after the last slots were cut off, as assisted decoding does with refused tokens.

        Raises:
            ValueError: There were dropped positions among them.
        """
        cut = self.index.shape[1] - slots
        last = torch.arange(self.positions - cut, self.positions, device=self.index.device)
        if not torch.equal(self.index[:, slots:], last.expand(len(self.index), -1)):
            raise ValueError(
                "svdprune_ext: the cache must keep all of a pruned prompt: it was cropped from "
                f"{self.index.shape[1]} to {slots} slots, which is before the last dropped token"
            )
        return replace(
            self,
            index=self.index[:, :slots],
            valid=self.valid[:, :slots],
            positions=self.positions - cut,
        )

    def extended(self, packing: Packing) -> Layout:
        """The layout after a step whose positions were packed."""
        return Layout(
            torch.cat([self.index, self.positions + packing.index], 1),
            torch.cat([self.valid, packing.valid], 1),
            self.positions + packing.kept.shape[1],
            self.dropped + (~packing.kept).sum(1, keepdim=True),
        )

    def with_capacity(self, capacity: int, padding: Tensor) -> Layout:
        """The layout of a static cache with so many slots; ``padding`` is the mask of those in use."""
        unused = padding.new_ones(padding.shape[0], capacity - padding.shape[1])
        return replace(self, static_mask=torch.cat([padding, unused], 1))

    def slot_mask(self, attention_mask: Tensor) -> Tensor:
        """[B, at least F], by position -> [B, slots], by slot."""
        return attention_mask.gather(1, self.index) * self.valid.to(attention_mask.dtype)


def compact_positions(position_ids: Tensor, packing: Packing, before: Tensor) -> Tensor:
    """Position ids [B or 1, q] renumbered as if the dropped tokens had never been: [B, M].

    Args:
        position_ids: As the caller numbers the new positions.
        packing: Which of them remain.
        before: How many each row dropped earlier, int64 [B, 1].
    """
    dropped = before + (~packing.kept).cumsum(1)
    return (position_ids - dropped).clamp_min(0).gather(1, packing.index)


def pack_deepstack(kwargs: dict[str, Any], packing: Packing) -> None:
    """Qwen3-VL adds features of its own to the vision tokens of the first layers."""
    vision = kwargs.get("visual_pos_masks")
    if vision is None:
        return
    kept = packing.kept[vision]
    kwargs["visual_pos_masks"] = vision.gather(1, packing.index) & packing.valid
    kwargs["deepstack_visual_embeds"] = [rows[kept] for rows in kwargs["deepstack_visual_embeds"]]
