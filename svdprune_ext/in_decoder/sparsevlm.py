"""SparseVLM and SparseVLM+: the text's raters say which vision tokens stay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from svdprune_ext.in_decoder.attention import LayerCall
from svdprune_ext.in_decoder.counts import (
    LAYERS,
    RANK_SCALE_AND_BIAS,
    SCHEDULES,
    fixed_count,
    layers_at_depth,
    rank_counts,
)
from svdprune_ext.in_decoder.heads import scores_of_best_heads
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
from svdprune_ext.in_decoder.raters import text_raters

BEST_HEADS = 14  # of SparseVLM+, published for 32 heads


@dataclass(frozen=True)
class SparseVLM(DecoderMethod):
    """Text-guided pruning behind a few decoder layers.

    Deterministic: equal scores go to the lower index, and nothing is random.

    Args:
        tokens: A nominal number of tokens, averaged over layers, for which a schedule was published: 192,
            128, 96 or 64 (version "1.0": 192, 128 or 64). Or a schedule: for each pruning layer a number of
            vision tokens that it leaves, or the share of the first layer's that it leaves, as a float in (0,
            1]; not for "1.0". A layer with no more tokens than that drops none.
        version: "1.0" counts by the rank of the raters' attention. "1.5" keeps fixed numbers. Both merge some
            of what they drop into a few recycled tokens, and count position ids anew in every layer. "2.0",
            SparseVLM+, keeps fixed numbers and the position ids, recycles none, divides attention by what
            position alone gives, and listens to the 14 heads that look at the image most.
        layers: Pruning layers, 0-based; None: the published ones, (2, 6, 15, 19) for "1.0" and (2, 6, 15) for
            the others, which are for 32 layers; for other depths in proportion.
        heads: How many heads "2.0" listens to.

    Raises:
        ValueError: An argument is out of its range.

    Source: SparseVLM, arXiv 2410.04417; version 2 of it is SparseVLM+.
    """

    tokens: int | Sequence[int | float]
    version: str = "1.5"
    layers: Sequence[int] | None = None
    heads: int = BEST_HEADS

    name: ClassVar[str] = "sparsevlm"

    def __post_init__(self) -> None:
        check(
            self.name,
            "version",
            self.version in LAYERS,
            f"one of {', '.join(LAYERS)}",
            self.version,
        )
        check(self.name, "heads", is_count(self.heads), "an int >= 1", self.heads)
        published = RANK_SCALE_AND_BIAS if self.version == "1.0" else SCHEDULES[self.version]
        if isinstance(self.tokens, int):
            numbers = ", ".join(map(str, published))
            schedule = "" if self.version == "1.0" else ", or a schedule"
            expected = f"one of {numbers}{schedule}, for version {self.version}"
            check(self.name, "tokens", self.tokens in published, expected, self.tokens)
            stages = len(LAYERS[self.version]) if self.version != "1.0" else None
        else:
            is_schedule = isinstance(self.tokens, Sequence) and len(self.tokens) > 0
            right = self.version != "1.0" and is_schedule and all(map(is_budget, self.tokens))
            expected = "a schedule of ints >= 1 or floats in (0, 1], for versions 1.5 and 2.0"
            check(self.name, "tokens", right, expected, self.tokens)
            object.__setattr__(self, "tokens", tuple(self.tokens))
            stages = len(self.tokens)
            if self.layers is None:
                default = len(LAYERS[self.version])
                expected = f"a schedule of {default} numbers where layers is left out"
                check(self.name, "tokens", stages == default, expected, self.tokens)
        object.__setattr__(self, "layers", checked_layers(self.name, self.layers, stages))

    @property
    def recycles(self) -> bool:  # type: ignore[override]
        """Whether dropped tokens come back merged."""
        return self.version != "2.0"

    @property
    def positions(self) -> str:  # type: ignore[override]
        """How position ids go on behind a pruning layer."""
        return "original" if self.version == "2.0" else "compact"

    def layers_of(self, depth: int) -> Layers:
        """The pruning layers of a decoder of so many layers."""
        if self.layers is not None:
            return tuple(self.layers)
        return layers_at_depth(LAYERS[self.version], depth)

    def raters(self, prompt: Prompt) -> Tensor:
        """The text tokens that the image raises above the mean."""
        return text_raters(
            prompt.embeddings, prompt.vision, prompt.text, prompt.most_vision, prompt.most_text
        )

    def most_raters(self, prompt: Prompt) -> int:
        """Any token of the text may be one."""
        return prompt.most_text

    def score(self, call: LayerCall) -> Scores:
        """The attention that the raters pay, mean over heads and raters."""
        if self.version == "2.0":
            return Scores(scores_of_best_heads(call, self.heads))
        result = call.scores()
        return Scores(result.scores, result.attention)

    def counts(
        self, stage: int, scores: Scores, tokens: Sequence[int], at_first: Sequence[int]
    ) -> list[int]:
        """By rank in version 1.0, which waits for the device; by schedule in the others."""
        if self.version == "1.0":
            assert isinstance(self.tokens, int)
            assert scores.attention is not None
            return rank_counts(scores.attention, *RANK_SCALE_AND_BIAS[self.tokens], tokens)
        if isinstance(self.tokens, int):
            budget: int | float = SCHEDULES[self.version][self.tokens][stage]
        else:
            budget = self.tokens[stage]
        return [fixed_count(budget, n, first) for n, first in zip(tokens, at_first, strict=True)]
