"""The decoder's side: dropped tokens leave the sequence, and the cache's slots are told from positions.

The model and its caller count *positions*, dropped tokens included; the decoder and its cache have *slots*,
one for each token kept. What the slots of a cache hold is noted on the cache itself (``Layout``), so that
beams, assisted decoding, later turns and hand-written loops find it there.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from svdprune_ext.models.cache import LAYOUT, cache_among, cache_returned, capacity_of, note
from svdprune_ext.models.family import Family
from svdprune_ext.models.masks import (
    attention_by_slot,
    padding_by_slot,
    padding_of,
    refuse_other_masks,
    says_who_sees_whom,
)
from svdprune_ext.models.noted_layout import already_seen, noted_layout
from svdprune_ext.models.own import OfOneModel
from svdprune_ext.models.placeholders import is_placeholder, prompt_among
from svdprune_ext.models.sequence import Layout, Packing, compact_positions, pack_deepstack
from svdprune_ext.models.settings import Settings
from svdprune_ext.models.step_call import StepCall, rows_and_length, without_first
from svdprune_ext.models.tracing import is_captured
from svdprune_ext.models.turn import Turn
from svdprune_ext.models.vision import VisionSide


class DecoderSide(OfOneModel):
    """The hooks on the base model and the decoder of one patched model."""

    def __init__(
        self,
        family: Family,
        settings: Settings,
        vision: VisionSide,
        base: nn.Module,
        decoder: Any,
        turn: Turn,
    ) -> None:
        self._family, self._settings, self._vision = family, settings, vision
        self._turn = turn
        self._base: Any = base
        self._arguments = list(inspect.signature(base.forward).parameters)
        self._window: int | None = getattr(decoder.config, "sliding_window", None)
        self._mask: Tensor | None = None  # what the model was called with, [B, positions]
        self._call = StepCall()
        self._dropping: tuple[Packing, Layout] | None = None

    @property
    def packing(self) -> Packing | None:
        """How the step under way was packed; None if it drops nothing."""
        return None if self._dropping is None else self._dropping[0]

    def before_model(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Begins a step. On a cache with dropped tokens it says what the model would ask of the cache."""
        kwargs = {**dict(zip(self._arguments, args, strict=False)), **kwargs}
        self._vision.begin_step(prompt_among(kwargs))
        self._call = StepCall.of(kwargs)
        mask = kwargs.get("attention_mask")
        self._mask = mask if isinstance(mask, Tensor) and mask.dim() == 2 else None
        rows, new = rows_and_length(kwargs)
        layout = noted_layout(cache_among(kwargs), new)
        if layout is not None and len(layout.index) != rows:
            raise ValueError(
                f"svdprune_ext: the cache must hold the {rows} rows of the batch, got a pruned prompt of "
                f"{len(layout.index)}"
            )
        if layout is None or layout.static_mask is not None:
            return None
        if mask is None:
            shown = self._shown(kwargs.get("position_ids"), new, layout)
            self._mask = layout.index.new_ones(len(layout.index), shown)
            kwargs["attention_mask"] = self._mask
        if self._mask is not None:
            seen = already_seen(self._mask.shape[1], new, layout)
            kwargs, new = without_first(kwargs, seen), new - seen
        first = self._family.first_position
        if kwargs.get("position_ids") is None and first is not None:
            ids = torch.arange(new, device=layout.index.device) + layout.positions + first
            kwargs["position_ids"] = ids.unsqueeze(0)
        return (), kwargs

    def after_model(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Ends a step, even one that failed: a decoder called by itself has nothing to do with it."""
        if self._turn.is_taken():
            self._vision.end_step()
            self._call = StepCall()

    def _shown(self, ids: Tensor | None, new: int, layout: Layout) -> int:
        """Number of positions, new ones included, where there is no mask: no row is padded."""
        if ids is None or new == 1:
            return layout.positions + new
        if ids.dim() == 2:
            last = ids[0, -1] - (self._family.first_position or 0)
        elif ids.shape[0] == 4:
            last = ids[0, 0, -1]  # transformers puts the place in the text above the three axes
        else:
            last = ids[0, 0, -1] - self._base.rope_deltas[0, 0]
        return int(last) + 1

    def before_decoder(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Takes the dropped tokens out of whatever the decoder reads by position."""
        self._dropping = None
        embeds = kwargs.get("inputs_embeds")
        if embeds is None:
            return None
        layout = noted_layout(cache_among(kwargs), embeds.shape[1])
        dropped, most_kept = self._dropped(embeds)
        self._vision.end_step()
        if dropped is not None:
            return args, self._drop(kwargs, layout, dropped, most_kept)
        if layout is not None:
            return args, self._go_on(kwargs, layout)
        return None

    def _dropped(self, embeds: Tensor) -> tuple[Tensor | None, int]:
        """Which positions were dropped, bool [B, q], or None; and how many the longest row keeps, or 1."""
        (rows, new), known, call = embeds.shape[:2], self._vision.dropped, self._call
        is_traced = torch.compiler.is_compiling() or is_captured()
        keeps_all = known == 0 and self._vision.has_encoded and not call.is_ahead
        if keeps_all or not call.may_drop or (new == 1 and is_traced):
            return None, new  # no wait for the device
        dropped = embeds[..., 0].isnan()
        if call.ids is not None:  # a NaN of text is the model's own
            places = is_placeholder(call.ids[:, -new:], self._base)
            dropped &= places.to(dropped.device)
        if is_traced:
            if call.ids is not None and call.is_ahead:
                raise ValueError(
                    "svdprune_ext: where a prompt is compiled or captured, its images must be encoded within "
                    "it, for the graph to know how many tokens are kept; generate encodes them ahead"
                )
            known = _known_when_traced(known, rows)
            alike = dropped.sum(1) == known // rows
            torch._assert_async(
                alike.all(),
                "svdprune_ext: a compiled or captured batch must drop as many tokens of each prompt",
            )
            return (dropped if known else None), max(new - known // rows, 1)
        if rows == 1 and known and not call.is_ahead:
            return dropped, max(new - known, 1)
        counts = dropped.sum(1).tolist()
        return (dropped if any(counts) else None), max(new - min(counts), 1)

    def _drop(
        self, kwargs: dict[str, Any], before: Layout | None, dropped: Tensor, most_kept: int
    ) -> dict[str, Any]:
        embeds, cache = kwargs["inputs_embeds"], cache_among(kwargs)
        was_pruned = before is not None
        if before is None:
            slots = 0 if cache is None else int(cache.get_seq_length())
            before = Layout.full(len(embeds), slots, embeds.device)
        packing = Packing.dropping(dropped, most_kept)
        after = before.extended(packing)
        mask = kwargs.get("attention_mask")
        refuse_other_masks(mask)
        padding = padding_by_slot(self._padding(mask), after)
        capacity = capacity_of(cache)
        if capacity is not None:
            after = after.with_capacity(capacity, padding)
        by_slot = padding
        if says_who_sees_whom(mask):
            if was_pruned:
                raise ValueError(
                    f"svdprune_ext: {self._family.model_class} lets images see ahead, which is not supported "
                    "where a cache holds part of the prompt"
                )
            by_slot = attention_by_slot(mask, packing, after, self._window, capacity)
        self._dropping = packing, after
        given = kwargs.get("position_ids")
        new_kwargs = {
            **kwargs,
            "inputs_embeds": packing.pack(embeds),
            "attention_mask": by_slot,
            "position_ids": self._packed_positions(given, packing, before, padding),
        }
        pack_deepstack(new_kwargs, packing)
        return new_kwargs

    def _go_on(self, kwargs: dict[str, Any], layout: Layout) -> dict[str, Any]:
        """A step that drops nothing, on a cache with dropped tokens."""
        new, device = kwargs["inputs_embeds"].shape[1], layout.index.device
        steps = torch.arange(new, device=device)
        if layout.static_mask is None:
            first: int | Tensor = layout.positions
            now = layout.grown_to(layout.index.shape[1] + new)
            mask = padding_by_slot(self._padding(kwargs.get("attention_mask")), now)
            kept_before = (mask.cumsum(1) - 1).clamp_min(0)[:, -new:]
        else:
            slots = cache_among(kwargs).get_seq_length()
            decoded = torch.as_tensor(slots, device=device) - layout.index.shape[1]
            first = layout.positions + decoded
            mask = layout.static_mask
            real = mask[:, : layout.index.shape[1]].sum(1, keepdim=True)
            kept_before = real + decoded + steps
        given = kwargs.get("position_ids")
        ids = (steps + first).unsqueeze(0) if given is None else given[..., -new:]
        if self._settings.positions == "compact":
            is_grid = ids.dim() == 3
            ids = _counted(ids, kept_before, layout) if is_grid else ids - layout.dropped
        return {**kwargs, "attention_mask": mask, "position_ids": ids}

    def _padding(self, mask: Any) -> Tensor | None:
        """[B, positions] from what the decoder was handed, or the model was; None if all count."""
        if isinstance(mask, Tensor) and mask.dim() == 2:
            return mask
        if self._mask is None and says_who_sees_whom(mask):
            return padding_of(mask)
        return self._mask

    def _packed_positions(
        self, given: Tensor | None, packing: Packing, before: Layout, padding: Tensor
    ) -> Tensor:
        """Position ids of the slots: renumbered, or those that the caller gave or would have."""
        rows, new = packing.kept.shape
        compact = self._settings.positions == "compact"
        if given is None:
            given = torch.arange(new, device=packing.index.device).unsqueeze(0) + before.positions
        if given.dim() == 2:
            given = given.expand(rows, -1)
            if compact:
                return compact_positions(given, packing, before.dropped)
            return given.gather(1, packing.index)
        given = given.expand(-1, rows, -1)
        ids = given.gather(2, packing.index.expand(given.shape[0], -1, -1))
        if not compact:
            return ids
        slots = (padding.cumsum(1) - 1).clamp_min(0)[:, -packing.index.shape[1] :]
        return _counted(ids, slots, before.extended(packing))

    def after_decoder(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> Any:
        """Gives every position a hidden state again, and notes the layout on the cache."""
        dropping, self._dropping, self._mask = self._dropping, None, None
        if dropping is None:
            return None
        packing, layout = dropping
        is_tuple = isinstance(output, tuple)
        cache = cache_among(kwargs)
        if cache is None and not is_tuple:
            cache = cache_returned(output)
        if cache is not None and not torch.compiler.is_exporting():
            note(cache, LAYOUT, layout)
        if is_tuple:
            return (packing.unpack(output[0]), *output[1:])
        output.last_hidden_state = packing.unpack(output.last_hidden_state)
        return output


def _counted(ids: Tensor, slots: Tensor, layout: Layout) -> Tensor:
    """Compact ids of M-RoPE [axes, B, M]: where a row dropped tokens the grid goes, all axes count slots."""
    return torch.where(layout.dropped > 0, slots, ids)


def _known_when_traced(dropped: int | None, rows: int) -> int:
    if dropped is None or dropped % rows:
        raise ValueError(
            "svdprune_ext: where a prompt is compiled or captured, keep must be a number or a share for each "
            "image, coverage None, and all prompts of a batch must have as many images of the same size"
        )
    return dropped
