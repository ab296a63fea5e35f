"""The hooks that prune vision tokens inside a model's forward pass.

Note [dropped tokens are NaN]
The vision tokens are pruned where the projector reads them, so that it runs on the kept ones alone. What
the projector returns must still have a row for every placeholder of the prompt: the rows of dropped
tokens are NaN, and the decoder's hook takes them out. Which rows were dropped thus travels with the
embeddings themselves, through ``generate``'s encoding ahead of the prompt, its expansion for beams,
several images a prompt, or a caller who merges by hand; and were a row ever left in, the
result would be NaN, not quietly wrong.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from svdprune_ext.models.sequence import Layout, Packing, compact_positions
from svdprune_ext.ops import prune

_LAYOUT = "_svdprune_layout"  # attribute on the key-value cache


@dataclass(frozen=True)
class Settings:
    """The arguments of ``apply``."""

    keep: int
    variance: float
    rank: int | None
    center: bool
    solver: str
    positions: str


@dataclass(frozen=True)
class Selection:
    """What was kept of the images encoded last.

    Attributes:
        indices: Positions of the kept tokens, ascending, int64 [images, keep].
        scores: Leverage of every token [images, N].
        rank: Number of leading directions, int32 [images].
        num_tokens: N, before pruning.
    """

    indices: Tensor
    scores: Tensor
    rank: Tensor
    num_tokens: int


class Hooks:
    """The forward hooks of one patched model, and what they hand to each other within one step."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.last: Selection | None = None
        self._to_restore: Selection | None = None
        self._packing: Packing | None = None
        self._layout: Layout | None = None
        self._trimmed = 0

    def before_projector(self, module: nn.Module, args: tuple[Any, ...]) -> Any:
        """Features [images, N, D] -> those of the kept tokens [images, keep, D]."""
        features = args[0]
        s = self.settings
        tokens, indices, scores, rank = prune(
            features,
            s.keep,
            variance=s.variance,
            rank=s.rank,
            center=s.center,
            solver=s.solver,
        )
        self.last = Selection(indices, scores, rank, features.shape[-2])
        if s.keep == features.shape[-2]:
            return None  # not even a copy: the model computes what it computes unpatched
        self._to_restore = self.last
        return (tokens, *args[1:])

    def after_projector(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Any:
        """[images, keep, H] -> [images, N, H], NaN where a token was dropped."""
        selection, self._to_restore = self._to_restore, None
        if selection is None:
            return None
        shape = (*output.shape[:-2], selection.num_tokens, output.shape[-1])
        index = selection.indices.to(output.device).unsqueeze(-1).expand_as(output)
        return output.new_full(shape, float("nan")).scatter(-2, index, output)

    def before_decoder(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Takes the dropped tokens out of embeddings, mask and positions."""
        self._packing, self._layout, self._trimmed = None, None, 0
        embeds = kwargs.get("inputs_embeds")
        if embeds is None:
            return None
        cache = kwargs.get("past_key_values")
        slots = 0 if cache is None else int(cache.get_seq_length())
        layout = _layout_of(cache, embeds.shape[0], slots)

        dropped = embeds[..., 0].isnan()
        # A single token is never a dropped one: decoding does not wait for the device here.
        counts = dropped.sum(1).tolist() if embeds.shape[1] > 1 else [0]
        if layout is None and not any(counts):
            return None
        if layout is None:
            layout = Layout.full(embeds.shape[0], slots, embeds.device)

        mask = _mask_by_position(kwargs.get("attention_mask"), embeds, layout.positions)
        self._trimmed = _already_seen(mask, embeds.shape[1], layout)
        embeds, dropped = embeds[:, self._trimmed :], dropped[:, self._trimmed :]
        positions = kwargs.get("position_ids")
        if positions is not None:
            positions = positions[..., self._trimmed :]

        packing = Packing.dropping(dropped, embeds.shape[1] - min(counts))
        self._packing, self._layout = packing, layout.extended(packing)
        new_kwargs = dict(kwargs)
        new_kwargs["inputs_embeds"] = packing.pack(embeds)
        # Always explicit: without one, transformers takes a gap in the positions for a new sequence.
        new_kwargs["attention_mask"] = self._layout.slot_mask(mask)
        new_kwargs["position_ids"] = self._positions(positions, packing, layout)
        return args, new_kwargs

    def _positions(self, given: Tensor | None, packing: Packing, layout: Layout) -> Tensor | None:
        """Position ids of the slots: renumbered, or those the caller gave."""
        rows, new = packing.kept.shape
        if self.settings.positions == "compact":
            if given is None:
                return None  # the decoder counts slots
            return compact_positions(given.expand(rows, -1), packing, layout.dropped)
        if given is None:
            given = torch.arange(
                layout.positions, layout.positions + new, device=packing.index.device
            ).unsqueeze(0)
        return given.expand(rows, -1).gather(1, packing.index)

    def after_decoder(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> Any:
        """Gives every position a hidden state again, and notes the layout on the cache."""
        packing, layout = self._packing, self._layout
        self._packing, self._layout = None, None
        if packing is None:
            return None
        is_tuple = isinstance(output, tuple)
        hidden = packing.unpack(output[0] if is_tuple else output.last_hidden_state)
        if self._trimmed:
            # Their hidden states were computed in an earlier step; nothing reads them here.
            hidden = torch.cat([hidden[:, :1].expand(-1, self._trimmed, -1), hidden], 1)
        cache = kwargs.get("past_key_values")
        if cache is None and not is_tuple:
            cache = output.past_key_values
        if cache is not None:
            setattr(cache, _LAYOUT, layout)
        if is_tuple:
            return (hidden, *output[1:])
        output.last_hidden_state = hidden
        return output


def _layout_of(cache: Any, rows: int, slots: int) -> Layout | None:
    """The layout noted on a cache, grown to its present length; None if nothing was dropped."""
    noted: Layout | None = getattr(cache, _LAYOUT, None) if slots > 0 else None
    if noted is None:
        return None
    if noted.index.shape[0] != rows or noted.index.shape[1] > slots:
        raise ValueError(
            f"svdprune_ext: past_key_values must be as the pruned model left it, with "
            f"{noted.index.shape[0]} rows of at least {noted.index.shape[1]} slots; got {rows} rows "
            f"of {slots} slots. A cache cropped into a pruned prompt cannot be continued."
        )
    return noted.grown_to(slots)


def _mask_by_position(mask: Any, embeds: Tensor, seen: int) -> Tensor:
    """The attention mask, [B, positions]; all ones where there is none."""
    if mask is None:
        return torch.ones(
            embeds.shape[0], seen + embeds.shape[1], dtype=torch.int64, device=embeds.device
        )
    if not isinstance(mask, Tensor) or mask.dim() != 2:
        got = list(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise ValueError(
            f"svdprune_ext: attention_mask must be 2-D [batch, positions] where vision tokens are "
            f"pruned, got {got}; a static cache, which makes it 4-D, is not supported"
        )
    return mask


def _already_seen(mask: Tensor, new: int, layout: Layout) -> int:
    """How many of the ``new`` leading positions the cache holds already.

    ``generate`` with a kept cache skips as many ids as the cache has slots, which is less than the number
    of positions they stand for; it then shows the last ones again.
    """
    repeated = layout.positions + new - mask.shape[1]
    slots_missing = layout.positions - layout.index.shape[1]
    if repeated not in (0, slots_missing) or repeated >= new:
        raise ValueError(
            f"svdprune_ext: attention_mask must cover the {layout.positions} positions seen so far "
            f"and the {new} new ones, with {layout.positions + new} columns, got {mask.shape[1]}"
        )
    return repeated
