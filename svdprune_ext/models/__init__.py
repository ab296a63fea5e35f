"""Insertion of the pruning into Hugging Face VLMs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any
from weakref import WeakSet

from torch import nn

from svdprune_ext.in_decoder import METHODS, DecoderMethod
from svdprune_ext.methods import get
from svdprune_ext.models.decoder import DecoderSide
from svdprune_ext.models.decoder_methods import check_model, from_arguments
from svdprune_ext.models.depth import DepthSide
from svdprune_ext.models.depth_limits import refuse_pieces
from svdprune_ext.models.families import family_of, supported_models
from svdprune_ext.models.family import Family
from svdprune_ext.models.settings import DEFAULT_SELECT, Settings
from svdprune_ext.models.tower import TowerAttention
from svdprune_ext.models.turn import Turn
from svdprune_ext.models.vision import Selection, VisionSide

__all__ = ["Handle", "Selection", "apply", "supported_models"]

_patched: WeakSet[nn.Module] = WeakSet()


class Handle:
    """A patched model's way back. Usable as a context manager."""

    def __init__(
        self,
        base: nn.Module,
        settings: Settings | None,
        vision: VisionSide | None,
        depth: DepthSide | None,
        removers: list[Callable[[], None]],
    ) -> None:
        self.settings = settings
        self._base = base
        self._vision, self._depth = vision, depth
        self._removers = removers

    @property
    def last(self) -> Selection | None:
        """What was kept of the images and videos seen last; None before the first."""
        before = None if self._vision is None else self._vision.last
        within = None if self._depth is None else self._depth.last
        if within is None:
            return before
        return replace(Selection() if before is None else before, decoder=within)

    def remove(self) -> None:
        """Restores the model exactly. Calling it again does nothing."""
        _patched.discard(self._base)
        while self._removers:  # the last one first: two may have put the same attribute
            self._removers.pop()()

    def __enter__(self) -> Handle:
        if not self._removers:
            raise RuntimeError("svdprune_ext: the handle's pruning was removed; apply() it again")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.remove()


def apply(
    model: Any,
    keep: int | float = 32,
    *,
    method: str = "svd",
    options: Mapping[str, Any] | None = None,
    coverage: float | None = None,
    per: str = "image",
    scope: str = "image",
    features: str = "encoder",
    variance: float = 0.9,
    rank: int | None = None,
    center: bool = False,
    solver: str = "auto",
    positions: str | None = None,
    select: str = DEFAULT_SELECT,
    energy: bool = False,
    tokens: int | Sequence[int | float] | None = None,
    version: str | None = None,
    then: DecoderMethod | None = None,
) -> Handle:
    """Makes a VLM prune the vision tokens of each image to those of highest leverage, or by another method.

    The prompt, the processor and ``generate`` stay as they are: logits and the last hidden state keep one
    row for each input token, where the row of a dropped token repeats the one before it.

    Modifications: forward hooks on the base model, the projector and the decoder, and ``get_image_features``
    (``get_video_features``) of the base model on the instance, with "prompt" also ``generate``; for a method
    within the decoder hooks on its layers, ``generate``, and ``config`` of a few attention modules on the
    instance; and on each cache that holds a pruned prompt, notes of what its slots hold, and the methods that
    empty it, or reorder, repeat or select its rows, which the notes follow. No weight and no shared
    configuration is touched. One forward pass at a time: threads need a lock. A patched model cannot be
    copied or pickled: copy it first.

    Args:
        model: A model of one of ``supported_models()``.
        keep: The budget: an int is a number of tokens, a float in (0, 1] a share of them, rounded up. What
            has no more tokens than its budget keeps them all.
        method: One of ``svdprune_ext.methods.available()``: "svd", or a method that it is compared with.
            Those take ``keep``, ``features``, ``positions``, and the same ``per`` and ``scope``; they choose
            within each group by itself. One that goes by attention takes it from the vision tower, at the
            layer of the features; one that merges takes the features for the projector, so it needs a
            projector that maps row by row, or merges behind it with ``features="projector"``. Or a method
            that prunes within the decoder: "sparsevlm" takes ``tokens`` and ``version``, "fastv" ``keep``,
            "pyramiddrop" neither; see ``svdprune_ext.SparseVLM``, ``FastV`` and ``PyramidDrop``.
        options: The method's own options, by name; none for "svd", whose are arguments here.
        coverage: Keep the fewest tokens that hold this share of the leverage, in (0, 1], and no more than
            ``keep``. None keeps as many as ``keep`` says.
        per: What has a budget of its own: each "tile", "image" or "prompt". A budget that spans several
            images or tiles is shared among them in proportion to their ranks. A video is an image, its
            frames are its tiles; of one prompt the images share a budget, and the videos another.
        scope: What is scored by one SVD: each "tile", "image" or "prompt".
        features: What is scored: features of the "encoder", or those behind the "projector". The first lets
            a projector that maps row by row run on the kept tokens only.
        variance: Share of the energy that the leading directions hold, in (0, 1].
        rank: Number of leading directions; overrides ``variance``. No more than there are tokens.
        center: Subtract the mean token before scoring.
        solver: As in ``svdprune_ext.prune``.
        positions: "compact": position ids as if the dropped tokens had never been, as in a model that is
            handed the kept tokens alone. "original": the kept tokens' own ids, and what follows goes on
            from the full prompt's. None: "original" for models with M-RoPE, whose ids hold the image's
            grid, "compact" for all others, as in most published pruners.
        select: Rule of selection of "svd": "topk", the highest leverage, or "pivoted", which keeps no copies
            of what it has; see ``svdprune_ext.prune``. "pivoted" needs no ``variance``, ``rank`` or
            ``solver``; its ``coverage`` is a share of the energy, and its ``scope`` is ``per``.
        energy: Note in ``handle.last`` what share of its energy each image keeps. For study: it decomposes
            the kept rows in float64, and waits for the device.
        tokens: For "sparsevlm": a published number, or a schedule.
        version: For "sparsevlm": "1.0", "1.5" (the default) or "2.0".
        then: A method that prunes within the decoder what ``method`` leaves: ``SparseVLM(tokens=64)``.

    Returns:
        A handle: ``.remove()`` undoes it, ``.last`` tells what was kept.

    Raises:
        ValueError: The model is not supported or patched already, or an argument is out of its range.

    Source: SVD-Prune, arXiv 2604.11530, section 3 (encoder-side pruning).
    """
    family = family_of(model)
    if model.base_model in _patched:
        raise ValueError("apply: model is patched already; call remove() on its handle first")
    options = {} if options is None else options
    if not isinstance(options, Mapping):
        raise ValueError(
            f"apply: options must be None or a mapping of names to values, got {options!r}"
        )
    settings = Settings(
        method="svd" if method in METHODS else method,
        options={} if method in METHODS else options,
        keep=keep,
        coverage=coverage,
        per=per,
        scope=scope,
        features=features,
        variance=variance,
        rank=rank,
        center=center,
        solver=solver,
        positions=family.positions if positions is None else positions,
        select=select,
        energy=energy,
    )
    if method in METHODS:
        _check_alone(method, settings, positions, then)
        within = from_arguments(method, keep, tokens, version, options)
        return _install(model, family, None, within)
    for name, value in (("tokens", tokens), ("version", version)):
        if value is not None:
            raise ValueError(f"apply: {name} must be left out for method {method}, got {value!r}")
    if not isinstance(then, DecoderMethod | None):
        raise ValueError(
            f"apply: then must be None, SparseVLM, FastV or PyramidDrop, got {type(then).__name__}"
        )
    return _install(model, family, settings, then)


def _check_alone(
    method: str, settings: Settings, positions: str | None, then: DecoderMethod | None
) -> None:
    """Refuses arguments that a method within the decoder does not have."""
    given = {"then": then, "positions": positions, "coverage": settings.coverage}
    defaults = {
        "per": "image",
        "scope": "image",
        "features": "encoder",
        "variance": 0.9,
        "rank": None,
    }
    defaults |= {"center": False, "solver": "auto", "select": DEFAULT_SELECT, "energy": False}
    given |= {name: getattr(settings, name) for name in defaults}
    for name, value in given.items():
        if value != defaults.get(name):
            raise ValueError(f"apply: {name} must be left out for method {method}, got {value!r}")


def _install(
    model: Any, family: Family, settings: Settings | None, within: DecoderMethod | None
) -> Handle:
    """Puts the hooks of one or both methods in place; of two, those before the decoder first."""
    base, decoder = model.base_model, model.get_decoder()
    vision, side, depth, turn = None, None, None, Turn()
    if within is not None:
        check_model(within, family, decoder)
    removers: list[Callable[[], None]] = [base.register_forward_pre_hook(turn.before_model).remove]
    if settings is not None:
        attention = _tower_attention(family, base, settings)
        vision = VisionSide(family, base, settings, attention, turn)
        side = DecoderSide(family, settings, vision, base, decoder, turn)
        removers += [
            *vision.install(model),
            base.register_forward_pre_hook(side.before_model, with_kwargs=True).remove,
            base.register_forward_hook(side.after_model, always_call=True).remove,
            decoder.register_forward_pre_hook(side.before_decoder, with_kwargs=True).remove,
            decoder.register_forward_hook(side.after_decoder, with_kwargs=True).remove,
        ]
    if within is not None:
        depth = DepthSide(within, base, decoder, side, turn)
        removers += [*depth.install(), refuse_pieces(within, model)]
    removers.append(base.register_forward_hook(turn.after_model, always_call=True).remove)
    _patched.add(base)
    return Handle(base, settings, vision, depth, removers)


def _tower_attention(family: Family, base: Any, settings: Settings) -> TowerAttention | None:
    """What catches the attention that the method goes by; None if it goes by none."""
    method = get(settings.method)
    if method.attention is not None and family.tower is None:
        raise ValueError(
            f"apply: method must be one that does without the vision tower's attention, which is not "
            f"available for {family.model_class}, got {method.name!r}"
        )
    if method.merges and not family.row_by_row and settings.features == "encoder":
        raise ValueError(
            f"apply: features must be 'projector' for {method.name}, which merges, with "
            f"{family.model_class}, whose projector does not map row by row, got 'encoder'"
        )
    if method.attention is None or family.tower is None:
        return None
    return TowerAttention(base, family.tower(base), only_cls=method.attention == "cls")
