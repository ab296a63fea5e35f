"""One step through the decoder's stages: what its layers get, and what they leave in the cache."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from svdprune_ext.models.layer_slots import Behind, Slots, StaticSlots, in_form, mask_by_slot
from svdprune_ext.models.masks import FULL
from svdprune_ext.models.stage import Tokens


@dataclass
class Inputs:
    """What the layers behind a cut get in place of what the decoder made for its first layer."""

    attention_mask: Tensor | None
    position_ids: Tensor | None
    position_embeddings: Any  # None: as they are


@dataclass
class Step:
    """A step, as far as it has come.

    Attributes:
        decoder: The decoder.
        positions: "compact" or "original".
        given: Position ids of the first layer [B or 1, M].
        past: How many slots the layers of the present stage had before the step.
        slots: Those of the present stage, the step's included.
        before: Those of the layers behind each cut, before the step.
        was_cut: Whether a cut of an earlier step dropped tokens.
        tokens: Those of the present stage.
        text: How many of the cache's last tokens will be in every layer.
        capacity: Slots of each layer of a static cache; None for one that grows.
        first: Tokens of the first layer.
        stages: These, and those behind each cut that was reached.
        first_slots: Number of slots of the first layer, the step's included.
        inputs: Of the layers behind each cut that was reached; None where they are the first layer's.
        behind: Slots of these layers, the step's included.
    """

    decoder: Any
    positions: str
    given: Tensor
    past: int
    slots: Behind
    before: tuple[Behind, ...]
    was_cut: bool
    tokens: Tokens
    text: int
    capacity: int | None
    first: Tokens = field(init=False)
    stages: list[Tokens] = field(init=False)
    first_slots: int = field(init=False)
    inputs: list[Inputs | None] = field(default_factory=list)
    behind: list[Behind] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.first, self.first_slots = self.tokens, self.slots.valid.shape[1]
        self.stages = [self.tokens]

    def go_behind(self, cut: int, hidden: Tensor) -> None:
        """Enters the stage behind a cut, whose layers run on ``self.tokens`` with states ``hidden``."""
        before, tokens = self.before[cut], self.tokens
        self.stages.append(tokens)
        ids, shift = self._position_ids(before.shift)
        self.slots = before.followed_by(tokens.valid, tokens.are_all_valid, shift)
        self.past = before.valid.shape[1]
        self.behind.append(self.slots)
        if tokens is self.first and not self.was_cut:
            self.inputs.append(None)
            return
        implementation = self.decoder.config._attn_implementation
        mask = mask_by_slot(
            self.slots, tokens.valid.shape[1], implementation, hidden.dtype, self.capacity
        )
        embeddings = None
        if ids is not self.given:
            embeddings = self.decoder.rotary_emb(hidden, position_ids=ids.to(hidden.device))
        # Flash attention takes a gap in the ids of a prompt without a mask for the start of another one.
        may_have_gaps = self.positions == "original" and "flash" in implementation
        self.inputs.append(Inputs(mask, None if may_have_gaps else ids, embeddings))

    def _position_ids(self, shift: Tensor) -> tuple[Tensor, Tensor]:
        """Ids of the present tokens [B, M], and by how much those of later tokens will be less than given."""
        tokens, first = self.tokens, self.first
        if tokens is first:
            keep_ids = self.positions == "original" or not self.was_cut
            return (self.given if keep_ids else (self.given - shift).clamp_min(0)), shift
        given = self.given.expand(len(first.valid), -1)
        if self.positions == "original":
            return given.gather(1, tokens.source.clamp_min(0)), shift
        place = torch.arange(given.shape[1], device=given.device)
        last = torch.where(first.valid, place, 0).amax(1, keepdim=True)
        start = given.gather(1, first.valid.int().argmax(1, keepdim=True)) - shift
        numbers = tokens.valid.cumsum(1)
        less = given.gather(1, last) + 1 - start - numbers[:, -1:]
        # A row that lost nothing keeps its ids, with the gaps they may have, whatever other rows lost.
        own = (tokens.source >= 0).sum(1, keepdim=True)
        is_whole = own == first.valid.sum(1, keepdim=True)
        as_given = given.gather(1, tokens.source.clamp_min(0)) - shift
        ids = torch.where(is_whole, as_given, start + numbers - 1).clamp_min(0)
        return ids, torch.where(is_whole, shift, less)

    def noted(self) -> Slots | StaticSlots:
        """What is to be noted on the cache."""
        if self.capacity is not None:
            return StaticSlots.of(self.behind, self.capacity)
        return Slots(tuple(self.behind), self.first_slots, self.text)


def inputs_of_decoded(
    slots: StaticSlots,
    cuts: tuple[int, ...],
    positions: str,
    decoder: Any,
    cache: Any,
    kwargs: dict[str, Any],
) -> list[Inputs | None]:
    """What the layers behind each cut get with a token that is decoded on a static cache.

    Every layer counts its own tokens, on the device: nothing depends on how many those are but the values,
    so that one compiled program, or one graph of the device's, does for all.

    Args:
        slots: What was noted on the cache.
        cuts: The pruning layers.
        positions: "compact" or "original".
        decoder: The decoder.
        cache: The key-value cache.
        kwargs: What the decoder was called with.
    """
    embeds, given = kwargs["inputs_embeds"], kwargs.get("position_ids")
    if given is None:
        given = torch.as_tensor(cache.get_seq_length(), device=embeds.device).view(1, 1)
    implementation = decoder.config._attn_implementation
    inputs: list[Inputs | None] = []
    for cut, behind in zip(cuts, slots.behind, strict=True):
        slot = torch.arange(behind.valid.shape[1], device=behind.valid.device)
        filled = torch.as_tensor(cache.get_seq_length(cut + 1), device=slot.device)
        seen = behind.valid & (slot <= filled)
        mask = in_form(seen[:, None, None], implementation, embeds.dtype)
        ids, embeddings = given, None
        if positions == "compact":
            ids = given - behind.shift
            embeddings = decoder.rotary_emb(embeds, position_ids=ids)
        inputs.append(Inputs(mask, ids, embeddings))
    return inputs


def valid_slots(mask: Any, embeddings: Tensor, past: int) -> Tensor:
    """Which slots of the first layer hold a token, the step's included: bool [B, S].

    Waits for the device if the mask says who sees whom.

    Args:
        mask: None, [B, at least S], or [B, 1, M, at least S] of causal attention, bool or additive; or a dict
            with one of these for full attention.
        embeddings: [B, M, H].
        past: S - M.

    Raises:
        ValueError: It is another one.
    """
    rows, new = embeddings.shape[:2]
    if isinstance(mask, dict):
        mask = mask.get(FULL)
    if mask is None:
        return torch.ones(rows, past + new, dtype=torch.bool, device=embeddings.device)
    if isinstance(mask, Tensor) and mask.dim() == 2 and mask.shape[1] >= past + new:
        return mask[:, : past + new].bool().to(embeddings.device)
    if isinstance(mask, Tensor) and mask.dim() == 4:
        valid = _valid_of_causal(mask, past, new)
        if valid is not None:
            return valid.expand(rows, -1).to(embeddings.device)
    got = list(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
    raise ValueError(
        f"svdprune_ext: attention_mask must be None, [B, {past + new}] or causal where vision tokens are "
        f"dropped within the decoder, got {got}"
    )


def _valid_of_causal(mask: Tensor, past: int, new: int) -> Tensor | None:
    """Which slots hold a token, bool [B, S], by a mask [B, 1, M, at least S]; None if it is not causal."""
    seen = mask if mask.dtype == torch.bool else mask == 0
    if seen.shape[1] != 1 or seen.shape[2] != new or seen.shape[3] < past + new:
        return None
    seen = seen[:, 0]
    valid = seen[:, -1, : past + new]
    key = torch.arange(seen.shape[2], device=seen.device)
    causal = key <= key[past : past + new].unsqueeze(1)
    expected = causal & torch.nn.functional.pad(valid, (0, len(key) - past - new)).unsqueeze(1)
    is_causal = (seen == expected) | ~valid[:, past:].unsqueeze(2)  # whatever padding sees
    return valid if new == 1 or bool(is_causal.all()) else None


def text_behind(vision: Tensor, valid: Tensor) -> Tensor:
    """The text after the last vision token of each row; none in a row without: bool [B, M]."""
    place = torch.arange(vision.shape[1], device=vision.device)
    last = torch.where(vision, place, -1).amax(1, keepdim=True)
    return valid & (place > last) & (last >= 0)


def counted(valid: Tensor, vision: Tensor, text: Tensor) -> list[list[int]]:
    """Number of tokens, vision tokens and text of each row. Waits for the device."""
    counts: list[list[int]] = torch.stack([valid.sum(1), vision.sum(1), text.sum(1)], 1).tolist()
    return counts
