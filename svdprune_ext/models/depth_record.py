"""What is told of the last pruning within the decoder."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from svdprune_ext.models.stage import Tokens


@dataclass(frozen=True)
class InDecoder:
    """Which vision tokens of each prompt the decoder's layers ran on, in the last step that had any.

    Attributes:
        depth: Number of decoder layers.
        layers: The pruning layers, 0-based. Each runs on all its tokens; those after it on fewer.
        stages: The tokens before the first of them, and behind each.
    """

    depth: int
    layers: tuple[int, ...]
    stages: list[Tokens]

    @property
    def num_tokens(self) -> tuple[tuple[int, ...], ...]:
        """For each layer, the number of vision tokens of each prompt, recycled ones among them."""
        stage_of = [sum(cut < layer for cut in self.layers) for layer in range(self.depth)]
        return tuple(tuple(self.stages[stage].num_vision) for stage in stage_of)

    @property
    def average(self) -> tuple[float, ...]:
        """Mean number of vision tokens over all layers, for each prompt: what a nominal number stands for."""
        return tuple(sum(row) / self.depth for row in zip(*self.num_tokens, strict=True))

    @property
    def kept(self) -> tuple[tuple[Tensor, ...], ...]:
        """For each pruning layer and prompt: which of its vision tokens remain, ascending, int64 [kept].

        Recycled ones do not appear.
        """
        first = self.stages[0]
        number = first.vision.cumsum(1) - 1
        result = []
        for stage in self.stages[1:]:
            own = stage.vision & (stage.source >= 0)
            rows = zip(number, stage.source, own, strict=True)
            result.append(tuple(n[source[is_own]] for n, source, is_own in rows))
        return tuple(result)

    @property
    def num_recycled(self) -> tuple[tuple[int, ...], ...]:
        """For each pruning layer and prompt: how many merged tokens stand among its vision tokens."""
        recycled = [stage.vision & (stage.source < 0) for stage in self.stages[1:]]
        return tuple(tuple(torch.sum(rows, 1).tolist()) for rows in recycled)
