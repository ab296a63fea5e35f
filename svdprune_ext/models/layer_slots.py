"""What the layers behind a cut hold in the cache, where each stage has fewer slots than the one before.

transformers takes the length of a cache from its first layer, and with it masks and position ids. The layers
behind a cut get masks by their own slots, and ids by their own count; the first layer's count stays the
caller's. What is needed for it is noted on the cache itself (``Slots``), so that beams, assisted decoding and
later turns find it there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from svdprune_ext.models.cache import LAYER_SLOTS, Take, forget, note, noted


@dataclass(frozen=True)
class Behind:
    """The slots of the layers behind one cut, up to the next.

    Attributes:
        valid: Which hold a token, bool [B, S].
        shift: What a new token's position id is less by than the caller's, int64 [B, 1].
        is_full: Whether all hold one.
    """

    valid: Tensor
    shift: Tensor
    is_full: bool

    @classmethod
    def uncut(cls, valid: Tensor, is_full: bool) -> Behind:
        """As many slots as the first layer has: bool [B, S]."""
        none = torch.zeros(len(valid), 1, dtype=torch.int64, device=valid.device)
        return cls(valid, none, is_full)

    def of_rows(self, take: Take) -> Behind:
        """The same of other rows of the cache."""
        return replace(self, valid=take(self.valid), shift=take(self.shift))

    def followed_by(self, valid: Tensor, is_full: bool, shift: Tensor | None = None) -> Behind:
        """With the tokens of a step [B, M] behind it."""
        shift = self.shift if shift is None else shift
        return Behind(torch.cat([self.valid, valid], 1), shift, self.is_full and is_full)

    def resized(self, by: int) -> Behind:
        """With so many decoded tokens more, or cut off."""
        if by <= 0:
            return replace(self, valid=self.valid[:, : self.valid.shape[1] + by])
        return self.followed_by(self.valid.new_ones(len(self.valid), by), True)


@dataclass(frozen=True)
class _OfLayers:
    behind: tuple[Behind, ...]

    def of_rows(self, take: Take) -> Self:
        """The same of other rows of the cache."""
        return replace(self, behind=tuple(behind.of_rows(take) for behind in self.behind))


@dataclass(frozen=True)
class Slots(_OfLayers):
    """What the cache holds.

    Attributes:
        behind: Of the layers behind each cut.
        first_layer: Number of slots of the first layer.
        text: How many of the last tokens of each row are in every layer.
    """

    first_layer: int
    text: int

    def at(self, first_layer: int) -> Slots:
        """The same for a cache whose first layer now has so many slots.

        Raises:
            ValueError: It was cropped into what the layers do not all hold.
        """
        by = first_layer - self.first_layer
        if by == 0:
            return self
        if by + self.text < 0:
            raise ValueError(
                "svdprune_ext: the cache must keep all of a pruned prompt up to the text that follows "
                f"its image: {-by} slots were cropped, of which {self.text} are text"
            )
        return Slots(tuple(b.resized(by) for b in self.behind), first_layer, self.text + by)


@dataclass(frozen=True)
class StaticSlots(_OfLayers):
    """What a static cache holds, whose layers have as many slots each and fill them one token after another.

    Attributes:
        behind: Of the layers behind each cut; ``valid`` has all their slots, and is true behind the prompt's.
    """

    @classmethod
    def of(cls, behind: list[Behind], capacity: int) -> StaticSlots:
        """From the slots in use of layers with room for ``capacity``."""
        unused = [capacity - part.valid.shape[1] for part in behind]
        return cls(tuple(b.resized(more) for b, more in zip(behind, unused, strict=True)))


def noted_slots(cache: Any, new: int) -> Slots | StaticSlots | None:
    """What was noted on a cache, at its present length; None if nothing was cut, or it was reset.

    Args:
        cache: The key-value cache, or None.
        new: Number of tokens that are to be added.

    Raises:
        ValueError: A static cache is to take more than one.
    """
    found: Slots | StaticSlots | None = noted(cache, LAYER_SLOTS)
    if found is None or (isinstance(found, StaticSlots) and new == 1):
        return found
    slots = int(cache.get_seq_length())
    if slots == 0:
        forget(cache, LAYER_SLOTS)
        return None
    if isinstance(found, StaticSlots):
        raise ValueError(
            f"svdprune_ext: a static cache that holds a pruned prompt takes one token at a time, got {new}"
        )
    return found.at(slots)


def note_slots(cache: Any, slots: Slots | StaticSlots) -> None:
    """Notes it on a cache."""
    note(cache, LAYER_SLOTS, slots)


def crop_to(cache: Any, layers: range, slots: int) -> None:
    """Cuts off what a crop to the first layer's length (transformers before 5.20) left behind a cut."""
    for layer in (cache.layers[i] for i in layers):
        if layer.get_seq_length() > slots:
            layer.keys, layer.values = layer.keys[..., :slots, :], layer.values[..., :slots, :]


def mask_by_slot(
    behind: Behind,
    queries: int,
    implementation: str,
    dtype: torch.dtype,
    capacity: int | None = None,
) -> Tensor | None:
    """The attention mask of a step in the layers behind a cut, in the form that the attention takes.

    Args:
        behind: Their slots, those of the step included.
        queries: M, the number of these.
        implementation: transformers' name of the attention.
        dtype: Of the hidden states.
        capacity: Number of slots of these layers in a static cache, used or not.

    Returns:
        "flash": bool [B, S], or None without padding. "sdpa": bool [B, 1, M, S or capacity], or None where
        causal attention is all that is asked. "eager": the same, additive.
    """
    slots = behind.valid.shape[1]
    if "flash" in implementation:
        return None if behind.is_full else behind.valid
    is_plain = behind.is_full and queries in (1, slots)
    if is_plain and implementation != "eager" and capacity is None:
        return None
    key = torch.arange(slots, device=behind.valid.device)
    query = key[slots - queries :].unsqueeze(1)
    # A padded query sees itself: with nothing to see its state might be NaN, and spread from there.
    seen = (behind.valid.unsqueeze(1) & (key <= query)) | (key == query)
    if capacity is not None:
        seen = torch.nn.functional.pad(seen, (0, capacity - slots))
    return in_form(seen.unsqueeze(1), implementation, dtype)


def in_form(seen: Tensor, implementation: str, dtype: torch.dtype) -> Tensor:
    """Who sees whom, bool, as it is for "sdpa", or additive for "eager"."""
    if implementation != "eager":
        return seen
    return torch.zeros_like(seen, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)
