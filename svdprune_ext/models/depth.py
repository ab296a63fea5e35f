"""Pruning within the decoder: hooks that score, cut, and give the layers behind a cut what fits them.

Note [stages]
Cuts stand behind a few layers. Between them lie stages, whose layers have as many tokens, and slots in the
cache, as each other and fewer than the stage before. A hook behind a pruning layer cuts its output; hooks
before all later layers exchange mask, position ids and rotary embeddings. Where a cut drops nothing, and
nothing was dropped before it, they exchange nothing: what the model computes is then the unpatched model's,
bit for bit.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from svdprune_ext.in_decoder.attention import LayerCall
from svdprune_ext.in_decoder.method import DecoderMethod, Prompt, Scores
from svdprune_ext.in_decoder.places import mask_of, places_of, rows_at
from svdprune_ext.in_decoder.recycling import recycled_rows
from svdprune_ext.models.cache import cache_among, cache_returned, capacity_of
from svdprune_ext.models.decoder import DecoderSide
from svdprune_ext.models.depth_limits import refuse, refuse_programs
from svdprune_ext.models.depth_record import InDecoder
from svdprune_ext.models.layer_slots import (
    Behind,
    Slots,
    StaticSlots,
    crop_to,
    note_slots,
    noted_slots,
)
from svdprune_ext.models.overheard import overhear
from svdprune_ext.models.own import OfOneModel
from svdprune_ext.models.placeholders import is_placeholder, prompt_among
from svdprune_ext.models.stage import Tokens, gather_rows, highest_of_rows
from svdprune_ext.models.step import (
    Inputs,
    Step,
    counted,
    inputs_of_decoded,
    text_behind,
    valid_slots,
)
from svdprune_ext.models.turn import Turn


class DepthSide(OfOneModel):
    """The hooks within the decoder of one patched model.

    Attributes:
        last: What was kept in the last step that had vision tokens; None before the first.
    """

    def __init__(
        self,
        method: DecoderMethod,
        base: Any,
        decoder: Any,
        embeds_side: DecoderSide | None,
        turn: Turn,
    ) -> None:
        self.last: InDecoder | None = None
        self._method, self._base, self._decoder = method, base, decoder
        self._cuts = method.layers_of(len(decoder.layers))
        self._embeds_side, self._turn = embeds_side, turn
        self._arguments = list(inspect.signature(base.forward).parameters)
        self._vision: Tensor | None = None  # of the positions of a step, bool [B, q]
        self._step: Step | None = None
        self._inputs: list[Inputs | None] | None = None  # of the layers behind each cut
        self._most_raters = 0
        self._turns: Any = None  # rotary embeddings of the pruning layer at work
        self._scores: Scores | None = None  # by its attention

    def install(self) -> list[Callable[[], None]]:
        """Puts the hooks in place; to be called when those of the embeddings' side are.

        Returns:
            What undoes it.
        """
        layers, decoder = self._decoder.layers, self._decoder
        removers = [
            self._base.register_forward_pre_hook(self.before_model, with_kwargs=True).remove,
            self._base.register_forward_hook(self.after_model, always_call=True).remove,
            decoder.register_forward_pre_hook(self.before_decoder, with_kwargs=True).remove,
            # Ahead of the hook that gives back the positions dropped before the first layer.
            decoder.register_forward_hook(
                self.after_decoder, with_kwargs=True, prepend=True
            ).remove,
        ]
        for layer in range(self._cuts[0], len(layers)):
            behind = sum(cut < layer for cut in self._cuts) - 1
            hook = self._before_layer(behind, layer in self._cuts)
            removers.append(layers[layer].register_forward_pre_hook(hook, with_kwargs=True).remove)
        for cut, layer in enumerate(self._cuts):
            removers.append(overhear(layers[layer].self_attn, self._listen))
            removers.append(layers[layer].register_forward_hook(self._behind_layer(cut)).remove)
        return removers

    def before_model(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """Notes where the placeholders of vision tokens stand."""
        kwargs = {**dict(zip(self._arguments, args, strict=False)), **kwargs}
        prompt = prompt_among(kwargs)
        self._vision = None
        if prompt is not None and prompt.shape[1] > 1:
            self._vision = is_placeholder(prompt, self._base)

    def after_model(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Ends a step, even one that failed: a decoder called by itself has nothing to do with it."""
        if self._turn.is_taken():
            self._vision, self._step, self._inputs = None, None, None

    def before_decoder(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """Begins a step, if it has vision tokens or goes on from a cache that was cut."""
        self._step, self._inputs, vision, self._vision = None, None, self._vision, None
        embeds, cache = kwargs.get("inputs_embeds"), cache_among(kwargs)
        if embeds is None:
            return
        slots = noted_slots(cache, embeds.shape[1])
        if isinstance(slots, StaticSlots):
            self._inputs = inputs_of_decoded(
                slots, self._cuts, self._method.positions, self._decoder, cache, kwargs
            )
            return
        if vision is None and slots is None:
            return
        packing = None if self._embeds_side is None else self._embeds_side.packing
        if vision is None:
            vision = torch.zeros(embeds.shape[:2], dtype=torch.bool, device=embeds.device)
        elif packing is not None:
            vision = vision.gather(1, packing.index) & packing.valid
        self._begin(kwargs, vision.to(embeds.device), slots)

    def _begin(self, kwargs: dict[str, Any], vision: Tensor, noted: Slots | None) -> None:
        refuse_programs(self._method)
        embeds, cache = kwargs["inputs_embeds"], cache_among(kwargs)
        mask, new = kwargs.get("attention_mask"), embeds.shape[1]
        past = 0 if cache is None else int(cache.get_seq_length())
        valid = valid_slots(mask, embeds, past)
        text = text_behind(vision, valid[:, past:])
        # A token that is decoded: no wait for the device.
        counts = counted(valid[:, past:], vision, text) if new > 1 else [[1, 0, 0]] * len(embeds)
        has_vision = any(row[1] for row in counts)
        if noted is None and not has_vision:
            return
        refuse(self._method, self._decoder, cache, counts)
        tokens = Tokens.first(valid[:, past:], vision, counts)
        if has_vision:
            tokens = tokens.with_raters(self._raters(embeds, tokens, text, counts))
        past_slots = Behind.uncut(valid[:, :past], is_full=past == 0 or mask is None)
        given = kwargs.get("position_ids")
        if given is None:
            given = torch.arange(past, past + new, device=embeds.device).unsqueeze(0)
        before = (past_slots,) * len(self._cuts) if noted is None else noted.behind
        self._step = Step(
            decoder=self._decoder,
            positions=self._method.positions,
            given=given,
            past=past,
            slots=past_slots.followed_by(valid[:, past:], tokens.are_all_valid),
            before=before,
            was_cut=noted is not None,
            tokens=tokens,
            text=min((row[2] for row in counts if row[1]), default=new),
            capacity=capacity_of(cache),
        )
        self._inputs = self._step.inputs
        if noted is not None:
            self._repair(cache, noted)
        if not has_vision:
            self._step.text += 0 if noted is None else noted.text
            for cut in range(len(self._cuts)):
                self._step.go_behind(cut, embeds)

    def _raters(
        self, embeds: Tensor, tokens: Tokens, text: Tensor, counts: list[list[int]]
    ) -> Tensor:
        most_text = max(row[2] for row in counts)
        most_vision = max(tokens.num_vision)
        prompt = Prompt(embeds, tokens.valid, tokens.vision, text, most_vision, most_text)
        with torch.no_grad(), torch.autocast(embeds.device.type, enabled=False):
            raters = self._method.raters(prompt)
        self._most_raters = self._method.most_raters(prompt)
        if raters.device.type == "cpu":  # elsewhere the host would have to wait for the number
            self._most_raters = int(raters.sum(1).max())
        return raters

    def _repair(self, cache: Any, noted: Slots) -> None:
        ends = [*self._cuts[1:], len(self._decoder.layers) - 1]
        for cut, end, behind in zip(self._cuts, ends, noted.behind, strict=True):
            crop_to(cache, range(cut + 1, end + 1), behind.valid.shape[1])

    def _before_layer(self, cut: int, is_pruning: bool) -> Callable[..., Any]:
        """Exchanges what a layer behind a cut gets."""

        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if self._inputs is None:
                return None
            inputs = self._inputs[cut] if cut >= 0 else None
            if inputs is not None:
                kwargs = {**kwargs, "attention_mask": inputs.attention_mask}
                kwargs["position_ids"] = inputs.position_ids
                if inputs.position_embeddings is not None:
                    kwargs["position_embeddings"] = inputs.position_embeddings
            if is_pruning and self._step is not None:
                self._turns = kwargs["position_embeddings"]
            return args, kwargs

        return hook

    def _listen(self, query: Tensor, key: Tensor, scale: float) -> None:
        """Scores the vision tokens by the attention of a pruning layer."""
        step = self._step
        if step is None or max(step.first.num_vision) == 0:
            return
        tokens, device = step.tokens, query.device
        raters = places_of(tokens.raters, self._most_raters)
        visual = places_of(tokens.vision, max(tokens.num_vision))
        visual = torch.where(visual >= 0, visual + step.past, -1)
        key = key[:, :, : step.slots.valid.shape[1]]  # of a static cache, those in use
        cos, sin = self._turns
        # RoPE turns (1, 1) by t into (cos t - sin t, cos t + sin t).
        half = torch.ones_like(sin)
        half[..., : half.shape[-1] // 2] = -1
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            call = LayerCall(
                query=query.detach(),
                key=key.detach(),
                scale=scale,
                raters=raters.to(device),
                visual=visual.to(device),
                valid=step.slots.valid.to(device),
                turns=cos + half * sin,
            )
            self._scores = self._method.score(call)

    def _behind_layer(self, cut: int) -> Callable[..., Any]:
        """Cuts the output of a pruning layer."""

        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            step, scores, self._scores = self._step, self._scores, None
            if step is None or max(step.first.num_vision) == 0:
                return None
            assert scores is not None
            is_tuple = isinstance(output, tuple)
            hidden = self._cut(cut, step, scores, output[0] if is_tuple else output)
            step.go_behind(cut, hidden)
            return (hidden, *output[1:]) if is_tuple else hidden

        return hook

    def _cut(self, cut: int, step: Step, scores: Scores, hidden: Tensor) -> Tensor:
        """Takes tokens out of the step and their states out of ``hidden``."""
        tokens = step.tokens
        counts = self._method.counts(cut, scores, tokens.num_vision, step.first.num_vision)
        dropped = [before - now for before, now in zip(tokens.num_vision, counts, strict=True)]
        if not any(dropped):
            return hidden
        at = places_of(tokens.vision, max(tokens.num_vision))
        by_token = scores.by_token.to(at.device).masked_fill(at < 0, -torch.inf)
        is_kept = highest_of_rows(by_token, counts)
        kept = mask_of(at.masked_fill(~is_kept, -1), tokens.vision.shape[1])
        recycled, merged = None, [0] * len(counts)
        if self._method.recycles:
            states = rows_at(hidden, at.to(hidden.device))
            left = by_token.masked_fill(is_kept, -torch.inf).to(hidden.device)
            recycled, merged = recycled_rows(states, left, dropped)
        step.tokens, order = tokens.cut(kept, counts, recycled, merged)
        return gather_rows(hidden, recycled, order, step.tokens.valid)

    def after_decoder(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> Any:
        """Gives every token of the first layer a hidden state again, and notes the slots on the cache."""
        step, self._step, self._inputs = self._step, None, None
        if step is None:
            return None
        if any(step.first.num_vision):
            self.last = InDecoder(len(self._decoder.layers), self._cuts, step.stages)
        is_tuple = isinstance(output, tuple)
        cache = cache_among(kwargs)
        if cache is None and not is_tuple:
            cache = cache_returned(output)
        if cache is not None and (step.was_cut or step.tokens is not step.first):
            note_slots(cache, step.noted())
        if step.tokens is step.first:
            return None
        length = step.first.valid.shape[1]
        if is_tuple:
            return (step.tokens.spread(output[0], length), *output[1:])
        output.last_hidden_state = step.tokens.spread(output.last_hidden_state, length)
        return output
