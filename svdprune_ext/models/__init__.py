"""Insertion of the pruning into Hugging Face VLMs."""

from __future__ import annotations

from types import TracebackType
from typing import Any
from weakref import WeakSet

from torch import nn

from svdprune_ext.models.families import family_of, supported_models
from svdprune_ext.models.patch import Hooks, Selection, Settings

__all__ = ["Handle", "Selection", "apply", "supported_models"]

_patched: WeakSet[nn.Module] = WeakSet()


class Handle:
    """A patched model's way back. Usable as a context manager."""

    def __init__(self, model: nn.Module, hooks: Hooks, removers: list[Any]) -> None:
        self._model = model
        self._hooks = hooks
        self._removers = removers

    @property
    def settings(self) -> Settings:
        """The arguments that ``apply`` was called with."""
        return self._hooks.settings

    @property
    def last(self) -> Selection | None:
        """What was kept of the images encoded last; None before the first."""
        return self._hooks.last

    def remove(self) -> None:
        """Restores the model exactly. Calling it again does nothing."""
        for remover in self._removers:
            remover.remove()
        self._removers.clear()
        _patched.discard(self._model)

    def __enter__(self) -> Handle:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.remove()


def apply(
    model: nn.Module,
    keep: int = 32,
    *,
    variance: float = 0.9,
    rank: int | None = None,
    center: bool = False,
    solver: str = "auto",
    positions: str = "compact",
) -> Handle:
    """Makes a VLM prune the vision tokens of each image to the ``keep`` of highest leverage.

    Scores come from the features before the projector, which then runs on the kept tokens only. The
    prompt, the processor and ``generate`` stay as they are: logits and hidden states keep one row for each
    input token, where the row of a dropped token repeats the one before it.

    Modifications: forward hooks on the projector and on the decoder; no weight, no method and no
    configuration is touched. One forward pass at a time; not for a static cache.

    Args:
        model: A model of one of ``supported_models()``.
        keep: Number of vision tokens to keep of each image, in [1, N].
        variance: Share of the energy that the leading directions hold, in (0, 1].
        rank: Number of leading directions; overrides ``variance``.
        center: Subtract the mean token before scoring.
        solver: As in ``svdprune_ext.prune``.
        positions: "compact": position ids as if the dropped tokens had never been, as in a model that
            is handed the kept tokens alone. "original": the kept tokens' own ids.

    Returns:
        A handle: ``.remove()`` undoes it, ``.last`` tells what was kept.

    Raises:
        ValueError: The model is not supported or patched already, or an argument is out of its range.

    Source: SVD-Prune, arXiv 2604.11530, section 3 (encoder-side pruning).
    """
    family = family_of(model)
    if model in _patched:
        raise ValueError("apply: model is patched already; call remove() on its handle first")
    tokens = family.tokens_per_image(model.config)
    _check("keep", _is_int(keep) and 1 <= keep <= tokens, f"an int in [1, {tokens}]", keep)
    _check("variance", 0 < variance <= 1, "in (0, 1]", variance)
    rank_fits = rank is None or (_is_int(rank) and 1 <= rank <= tokens)
    _check("rank", rank_fits, f"None or an int in [1, {tokens}]", rank)
    solvers = ("auto", "tridiag", "eigh", "purify")
    _check("solver", solver in solvers, f"one of {', '.join(solvers)}", solver)
    _check("positions", positions in ("compact", "original"), '"compact" or "original"', positions)
    hooks = Hooks(Settings(keep, variance, rank, center, solver, positions))
    projector, decoder = family.projector(model), family.decoder(model)
    removers = [
        projector.register_forward_pre_hook(hooks.before_projector),
        projector.register_forward_hook(hooks.after_projector),
        decoder.register_forward_pre_hook(hooks.before_decoder, with_kwargs=True),
        decoder.register_forward_hook(hooks.after_decoder, with_kwargs=True),
    ]
    _patched.add(model)
    return Handle(model, hooks, removers)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check(name: str, right: bool, expected: str, got: object) -> None:
    if not right:
        raise ValueError(f"apply: {name} must be {expected}, got {got!r}")
