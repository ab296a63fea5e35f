"""Methods that ask the prompt's last token alone: FastV and PyramidDrop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from svdprune_ext.in_decoder.attention import LayerCall
from svdprune_ext.in_decoder.counts import fixed_count, layers_at_depth
from svdprune_ext.in_decoder.method import (
    DecoderMethod,
    Layers,
    Prompt,
    Scores,
    check,
    checked_layers,
    is_budget,
    is_count,
)
from svdprune_ext.in_decoder.raters import last_token


class LastTokenMethod(DecoderMethod):
    """Keeps the vision tokens that the prompt's last token attends to most, mean over heads."""

    recycles = False

    def raters(self, prompt: Prompt) -> Tensor:
        """The last token of each prompt with an image."""
        return last_token(prompt.valid, prompt.vision)

    def most_raters(self, prompt: Prompt) -> int:
        """One."""
        return 1

    def score(self, call: LayerCall) -> Scores:
        """The attention that it pays, mean over heads."""
        return Scores(call.scores().scores)


@dataclass(frozen=True)
class FastV(LastTokenMethod):
    """One cut, behind the first layers of the decoder.

    Args:
        keep: Number of vision tokens to keep, or a share of them, as a float in (0, 1], rounded up.
        layer: K: how many layers run on all tokens; the attention is that of the K-th.

    Raises:
        ValueError: An argument is out of its range.

    Source: FastV, arXiv 2403.06764, section 4.1; the last token's row, which public implementations rank by.
    """

    keep: int | float
    layer: int = 2

    name: ClassVar[str] = "fastv"
    positions = "original"

    def __post_init__(self) -> None:
        right = is_budget(self.keep)
        check(self.name, "keep", right, "an int >= 1 or a float in (0, 1]", self.keep)
        check(self.name, "layer", is_count(self.layer), "an int >= 1", self.layer)

    def layers_of(self, depth: int) -> Layers:
        """The K-th layer."""
        return (self.layer - 1,)

    def counts(
        self, stage: int, scores: Scores, tokens: Sequence[int], at_first: Sequence[int]
    ) -> list[int]:
        """The budget."""
        return [fixed_count(self.keep, n, n) for n in tokens]


@dataclass(frozen=True)
class PyramidDrop(LastTokenMethod):
    """Stages of the decoder, each of which leaves the same share of what it got.

    The published code ranks by the attention of the layer that follows a stage, computed ahead of it; here it
    is the stage's last layer.

    Args:
        ratio: Share that each stage leaves, in (0, 1), rounded down; at least one token.
        layers: The last layer of each stage but the last, 0-based; None: (7, 15, 23), which are for 32
            layers; for other depths in proportion.

    Raises:
        ValueError: An argument is out of its range.

    Source: PyramidDrop, arXiv 2410.17247, section 3.
    """

    ratio: float = 0.5
    layers: Sequence[int] | None = None

    name: ClassVar[str] = "pyramiddrop"
    positions = "compact"

    def __post_init__(self) -> None:
        right = isinstance(self.ratio, float) and 0 < self.ratio < 1
        check(self.name, "ratio", right, "a float in (0, 1)", self.ratio)
        object.__setattr__(self, "layers", checked_layers(self.name, self.layers, None))

    def layers_of(self, depth: int) -> Layers:
        """The last layer of each stage but the last."""
        return layers_at_depth((7, 15, 23), depth) if self.layers is None else tuple(self.layers)

    def counts(
        self, stage: int, scores: Scores, tokens: Sequence[int], at_first: Sequence[int]
    ) -> list[int]:
        """``int(N * ratio^(stage + 1))`` of the N before the first layer."""
        share = self.ratio ** (stage + 1)
        return [
            min(max(1, int(first * share)), n) for n, first in zip(tokens, at_first, strict=True)
        ]
