"""The vision side: scoring behind the encoder, and the marks on what the encoder returns.

Note [dropped tokens are NaN]
``get_image_features`` must return a row for every placeholder of the prompt: the rows of dropped tokens are
NaN, and the decoder's hook takes them out. Which rows were dropped thus travels with the embeddings
themselves, through ``generate``'s encoding ahead of the prompt, its expansion for beams, several images a
prompt, or a caller who merges by hand; and were a row ever left in, the result would be NaN, not quietly
wrong.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from svdprune_ext.models.depth_record import InDecoder
from svdprune_ext.models.family import Family, Grid, ToGrid
from svdprune_ext.models.own import OfOneModel, put
from svdprune_ext.models.placeholders import is_token, prompt_among
from svdprune_ext.models.rows import by_row, indices, with_nan, with_tokens
from svdprune_ext.models.selection import Choice, choose
from svdprune_ext.models.settings import Settings
from svdprune_ext.models.tower import TowerAttention
from svdprune_ext.models.tracing import is_captured
from svdprune_ext.models.turn import Turn


@dataclass
class Selection:
    """What was kept of the images and videos encoded last; each tuple has an entry for each of them.

    Attributes:
        scores: Leverage of every token [N], with select "pivoted" its share of the energy, or its score by
            another method, NaN where that has none; 0 for a separator, as LLaVA-NeXT's ``image_newline``.
        kept: Whether each token is kept, bool [N].
        ranks: Number of leading directions, with "pivoted" of the kept tokens', int32: of each scored group,
            in order; 0 by another method.
        energies: Share of its energy that each image keeps, float64 [images]: of each call of the encoder;
            empty unless ``apply`` was asked for ``energy``.
        decoder: What a method within the decoder kept of these; None without such a method.
    """

    scores: tuple[Tensor, ...] = ()
    kept: tuple[Tensor, ...] = ()
    ranks: tuple[Tensor, ...] = ()
    energies: tuple[Tensor, ...] = ()
    decoder: InDecoder | None = None

    @property
    def indices(self) -> tuple[Tensor, ...]:
        """Positions of the kept tokens among the image's own, ascending, int64 [kept]."""
        return tuple(kept.nonzero().squeeze(-1) for kept in self.kept)

    @property
    def rank(self) -> Tensor:
        """Number of leading directions of each scored group, int32 [groups]."""
        return torch.cat(self.ranks) if self.ranks else torch.zeros(0, dtype=torch.int32)

    @property
    def energy(self) -> Tensor | None:
        """Share of its energy that each image keeps, float64 [images]; None if it was not asked for."""
        return torch.cat(self.energies) if self.energies else None

    @property
    def num_tokens(self) -> tuple[int, ...]:
        """N: how many tokens the decoder would see unpruned, separators and all."""
        return tuple(len(scores) for scores in self.scores)

    @property
    def num_kept(self) -> tuple[int, ...]:
        """How many tokens the decoder does see."""
        return tuple(int(kept.sum()) for kept in self.kept)


class VisionSide(OfOneModel):
    """The hooks on the vision encoder of one patched model.

    Attributes:
        last: What was kept of the images and videos encoded last.
        dropped: Number of tokens dropped since ``begin_step``; None where only the device knows.
        has_encoded: Whether the encoder has run since ``begin_step``.
        prompt: Ids [B, L] or embeddings [B, L, H] of the prompts, where they are known ahead of the encoder.
    """

    def __init__(
        self,
        family: Family,
        base: Any,
        settings: Settings,
        attention: TowerAttention | None,
        turn: Turn,
    ) -> None:
        self.last: Selection | None = None
        self.dropped: int | None = 0
        self.has_encoded = False
        self.prompt: Tensor | None = None
        self._family, self._base, self._settings = family, base, settings
        self._attention, self._turn = attention, turn
        self._encoding: _Encoding | None = None
        self._called: set[str] = set()  # encoders whose images ``last`` holds, for the step to come
        self._of_prompts = "prompt" in (settings.scope, settings.per)

    def install(self, model: Any) -> list[Callable[[], None]]:
        """Puts the hooks in place.

        Modifications: ``get_image_features`` and ``get_video_features`` of the base model, and where a budget
        is a prompt's, ``generate`` of the model, which encodes images ahead of the prompt; on the instances.

        Returns:
            What undoes it.
        """
        projector = self._family.projector(self._base)
        removers = [
            projector.register_forward_pre_hook(self.before_projector).remove,
            projector.register_forward_hook(self.after_projector).remove,
            self._wrap("get_image_features", self._family.image_grid, "image_token_id"),
        ]
        if self._attention is not None:
            removers += self._attention.install()
        if self._family.video_grid is not None:
            video = self._wrap("get_video_features", self._family.video_grid, "video_token_id")
            removers.append(video)
        if self._of_prompts:
            removers.append(self._wrap_generate(model))
        return removers

    def begin_step(self, prompt: Tensor | None) -> None:
        """To be called before each forward pass of the base model."""
        self.prompt, self.dropped, self.has_encoded = prompt, 0, False

    def end_step(self) -> None:
        """To be called when the decoder has what was encoded, or the step failed."""
        self.prompt, self.dropped = None, None
        self._called.clear()

    def _wrap(self, name: str, to_grid: ToGrid, placeholder: str) -> Callable[[], None]:
        original = getattr(self._base, name)
        parameters = list(inspect.signature(original).parameters)

        @functools.wraps(original)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if self._encoding is not None:
                return original(*args, **kwargs)  # Qwen3-VL's videos go through get_image_features
            if torch.compiler.is_compiling() or is_captured():
                self._settings.check_traced()
            call = {**dict(zip(parameters, args, strict=False)), **kwargs}
            as_dict = kwargs.get("return_dict")
            as_dict = self._base.config.return_dict if as_dict is None else as_dict
            if name in self._called:  # there was no step since
                self._called.clear()
            self._encoding = _Encoding(to_grid, call, getattr(self._base.config, placeholder))
            try:
                output = original(*args, **{**kwargs, "return_dict": True})
                self._mark(output, self._encoding)
                self._called.add(name)
                self.has_encoded = True
            finally:
                self._encoding = None
            return output if as_dict else output.to_tuple()

        return put(self._base, name, self._turn.during(wrapped))

    def _wrap_generate(self, model: Any) -> Callable[[], None]:
        original = model.generate

        @functools.wraps(original)
        def generate(inputs: Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
            self.prompt = prompt_among({"input_ids": inputs, **kwargs})
            try:
                return original(inputs, *args, **kwargs)
            finally:
                self.prompt = None

        return put(model, "generate", self._turn.during(generate))

    def before_projector(self, module: nn.Module, args: tuple[Any, ...]) -> Any:
        """Scores the encoder's features; the projector then runs on the kept ones alone, if it can."""
        features, encoding = args[0], self._encoding
        if encoding is None:  # called by itself
            return None
        encoding.grid = encoding.to_grid(self._base, features, encoding.call)
        if self._attention is not None:
            given = self._attention.take(encoding.call, features.shape[-2]).to(features.device)
            by_token = encoding.to_grid(self._base, given.unsqueeze(-1), encoding.call)
            encoding.attention = by_token.features.mean(-1)
        if self._settings.features == "projector":
            return None
        choice = self._choose(encoding, encoding.grid.features)
        if not self._family.row_by_row or choice.total == choice.kept.shape[0]:
            return None  # with all tokens kept: what the model computes unpatched, bit for bit
        rows = indices(choice.kept, choice.total)
        if encoding.grid.rows is not None:
            rows = encoding.grid.rows[rows]
        encoding.projected = rows, features.shape
        kept = features.flatten(0, -2)[rows] if choice.tokens is None else choice.tokens
        return (kept.view(*(1,) * (features.dim() - 2), *kept.shape), *args[1:])

    def after_projector(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Any:
        """Gives each row of the projector's input its place in the output again."""
        if self._encoding is None or self._encoding.projected is None:
            return None
        rows, shape = self._encoding.projected
        full = output.new_zeros(shape[:-1].numel(), output.shape[-1])
        full = full.index_copy(0, rows.to(output.device), output.flatten(0, -2))
        return full.view(*shape[:-1], output.shape[-1])

    def _choose(self, encoding: _Encoding, features: Tensor) -> Choice:
        prompts = None
        if self._of_prompts and self.prompt is not None:
            assert encoding.grid is not None
            placeholders = is_token(self.prompt, encoding.placeholder, self._base).sum(1).tolist()
            prompts = _images_of_prompts(encoding.grid.rows_of_images(), placeholders)
        assert encoding.grid is not None
        attention = encoding.attention
        attention = None if attention is None else attention.to(features.device)
        encoding.choice = choose(features, encoding.grid.tiles, prompts, self._settings, attention)
        return encoding.choice

    def _mark(self, output: Any, encoding: _Encoding) -> None:
        """Puts NaN into the rows of dropped tokens, and notes what was kept."""
        rows = output.pooler_output
        grid = encoding.grid
        assert grid is not None
        if encoding.choice is None:
            features = torch.cat([image.flatten(0, -2) for image in rows])
            if grid.places is not None:
                features = features[grid.places.to(features.device)]
            self._choose(encoding, features)
        choice = encoding.choice
        assert choice is not None
        kept, scores = by_row(grid, choice)
        self._note(choice, grid, kept, scores)
        drops = choice.total != choice.kept.shape[0]
        if drops and choice.tokens is not None and self._settings.features == "projector":
            rows = with_tokens(rows, grid, choice)
        if isinstance(rows, Tensor):
            output.pooler_output = with_nan(rows, kept)
        else:
            parts = kept.split([image.shape[:-1].numel() for image in rows])
            output.pooler_output = [
                with_nan(image, part) for image, part in zip(rows, parts, strict=True)
            ]

    def _note(self, choice: Choice, grid: Grid, kept: Tensor, scores: Tensor) -> None:
        if choice.total is None or grid.places is not None:
            self.dropped = None
        elif self.dropped is not None:
            self.dropped += len(kept) - choice.total
        if torch.compiler.is_exporting():
            return  # nothing but the output leaves an exported graph
        sizes = grid.rows_of_images()
        before = self.last if self._called and self.last is not None else Selection()
        self.last = Selection(
            (*before.scores, *scores.split(sizes)),
            (*before.kept, *kept.split(sizes)),
            (*before.ranks, choice.rank),
            before.energies if choice.energy is None else (*before.energies, choice.energy),
        )


@dataclass
class _Encoding:
    """One call of ``get_image_features`` under way."""

    to_grid: ToGrid
    call: dict[str, Any]
    placeholder: int
    grid: Grid | None = None
    choice: Choice | None = None
    attention: Tensor | None = None  # of each token [T], where the method needs it
    projected: tuple[Tensor, torch.Size] | None = (
        None  # rows that the projector ran on, of which shape
    )


def _images_of_prompts(rows_of_images: list[int], placeholders: list[int]) -> list[int]:
    """Number of images of each prompt, which has so many placeholders."""
    counts, image = [], 0
    for rows in placeholders:
        first = image
        while rows > 0 and image < len(rows_of_images):
            rows -= rows_of_images[image]
            image += 1
        counts.append(image - first)
    if image != len(rows_of_images):
        raise ValueError(
            f"svdprune_ext: the prompts' placeholders, {placeholders}, must be those of the images encoded "
            f"with them, of {rows_of_images} tokens, where a scope or a budget is a prompt's"
        )
    return [count for count in counts if count > 0]
