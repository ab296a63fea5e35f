"""The tokens of one step on their way through the decoder's stages, and the taking out of vision tokens.

Shapes: B rows, M tokens of the step at the present depth, M' behind the next cut, C recycled tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tokens:
    """What the layers of one stage run on.

    Rows are packed to the right: what is missing in a row, padding or fewer tokens, stands at its left, once
    a cut was made.

    Attributes:
        valid: Which are no padding, bool [B, M].
        vision: Which are vision tokens, recycled ones among them, bool [B, M].
        raters: Whose attention counts at the next cut, bool [B, M].
        source: Place of each among the tokens of the first layer, int64 [B, M]; -1 for recycled ones and
            padding.
        num_valid: Number of tokens of each row.
        num_vision: Number of vision tokens of each row.
    """

    valid: Tensor
    vision: Tensor
    raters: Tensor
    source: Tensor
    num_valid: list[int]
    num_vision: list[int]

    @classmethod
    def first(cls, valid: Tensor, vision: Tensor, counts: list[list[int]]) -> Tokens:
        """Those of the first layer; ``counts``: valid ones and vision tokens of each row."""
        place = torch.arange(valid.shape[1], device=valid.device).expand_as(valid)
        source = torch.where(valid, place, -1)
        num_valid, num_vision = [row[0] for row in counts], [row[1] for row in counts]
        return cls(valid, vision, torch.zeros_like(valid), source, num_valid, num_vision)

    @property
    def are_all_valid(self) -> bool:
        """Whether there is no padding."""
        return min(self.num_valid) == self.valid.shape[1]

    def with_raters(self, raters: Tensor) -> Tokens:
        """The same, with the raters known."""
        return replace(self, raters=raters)

    def cut(
        self, kept: Tensor, counts: list[int], recycled: Tensor | None, merged: list[int]
    ) -> tuple[Tokens, Tensor]:
        """Takes vision tokens out, and recycled ones in: behind the last vision token, before the text.

        Args:
            kept: Which vision tokens stay, bool [B, M].
            counts: How many those are in each row.
            recycled: [B, C, H], or None.
            merged: How many of these are each row's.

        Returns:
            The tokens behind the cut, and where they stand in ``[hidden states, recycled]``, int64 [B, M'].
        """
        rows, length = self.valid.shape
        place = torch.arange(length, device=self.valid.device).expand(rows, -1)
        extra = 0 if recycled is None else recycled.shape[1]
        stays = self.valid & (kept | ~self.vision)
        key = torch.where(stays, place * (extra + 1), -1)
        if recycled is not None:
            last_vision = torch.where(self.vision, place, -1).amax(1, keepdim=True)
            number = torch.arange(extra, device=key.device)
            own = first_of_each(number, merged)
            behind = last_vision * (extra + 1) + 1 + number
            key = torch.cat([key, torch.where(own, behind, -1)], 1)
        num_vision = [a + b for a, b in zip(counts, merged, strict=True)]
        num_valid = [
            valid - before + now
            for valid, before, now in zip(self.num_valid, self.num_vision, num_vision, strict=True)
        ]
        order = key.argsort(dim=1, stable=True)[:, -max(num_valid) :]
        valid = key.gather(1, order) >= 0

        def picked(values: Tensor, of_recycled: int | bool) -> Tensor:
            values = torch.nn.functional.pad(values, (0, extra), value=of_recycled)
            return values.gather(1, order)

        after = Tokens(
            valid,
            picked(self.vision, True) & valid,
            picked(self.raters, False) & valid,
            picked(self.source, -1).where(valid, -1),
            num_valid,
            num_vision,
        )
        return after, order

    def spread(self, hidden: Tensor, length: int) -> Tensor:
        """[B, M, H] -> [B, length, H] of the first layer's tokens; a dropped one repeats the one before."""
        rows, now = self.source.shape
        slots = torch.arange(now, device=self.source.device).expand(rows, -1)
        first = self.valid.int().argmax(1, keepdim=True)
        at = self.source.where(self.source >= 0, length)
        slot_of = first.new_zeros(rows, length + 1).scatter(1, at, slots)[:, :length]
        slot = torch.maximum(slot_of, first).cummax(1).values.to(hidden.device)
        return hidden.gather(1, slot.unsqueeze(-1).expand(-1, -1, hidden.shape[-1]))


def first_of_each(number: Tensor, counts: list[int]) -> Tensor:
    """Whether ``number`` [n] is below each row's count, bool [B, n]; equal ones need no copy there."""
    if min(counts) == max(counts):
        return (number < counts[0]).expand(len(counts), -1)
    return number < torch.tensor(counts, device=number.device).unsqueeze(1)


def gather_rows(hidden: Tensor, recycled: Tensor | None, order: Tensor, valid: Tensor) -> Tensor:
    """The hidden states behind a cut [B, M', H]; padding is zero."""
    if recycled is not None:
        hidden = torch.cat([hidden, recycled.to(hidden.dtype)], 1)
    order = order.to(hidden.device).unsqueeze(-1).expand(-1, -1, hidden.shape[-1])
    picked = hidden.gather(1, order)
    return torch.where(valid.to(hidden.device).unsqueeze(-1), picked, picked.new_zeros(()))


def highest_of_rows(scores: Tensor, counts: list[int]) -> Tensor:
    """Bool [B, N]: the ``counts`` tokens of highest score of each row; of equal ones, the first."""
    order = scores.argsort(dim=1, descending=True, stable=True)
    rank = torch.arange(scores.shape[1], device=scores.device)
    wanted = first_of_each(rank, counts)
    return torch.zeros_like(order, dtype=torch.bool).scatter(1, order, wanted)
