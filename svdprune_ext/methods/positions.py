"""Rules that do not look at the features, and the one that looks at their length only."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from svdprune_ext.methods.method import Selected
from svdprune_ext.methods.options import Grid, Seed
from svdprune_ext.methods.ranking import highest


def random(x: Tensor, keep: int, attention: Tensor | None, *, seed: Seed = 0) -> Selected:
    """``keep`` tokens drawn without replacement, with equal chances.

    An int draws the same tokens for every image and every call, so that an image's result does not depend on
    its batch. A generator (on the CPU) goes on where it stands, and draws for each image anew;
    ``torch.compile`` cannot trace it. The draws are made on the CPU, so that they are the same for every
    device.

    Source: the usual control; no paper.
    """
    images, tokens = x.shape[:2]
    if isinstance(seed, torch.Generator):
        draws = torch.rand(images, tokens, generator=seed)
    else:
        draws = _draws(seed, tokens)
    indices = highest(draws, keep).expand(images, -1)
    return Selected(indices.to(x.device).contiguous())


def _draws(seed: int, tokens: int) -> Tensor:
    return torch.rand(1, tokens, generator=torch.Generator().manual_seed(seed))


# As torch.compiler.assume_constant_result does, which imports torch._dynamo, and takes a second for that.
_draws._dynamo_marked_constant = True  # type: ignore[attr-defined]


def uniform(x: Tensor, keep: int, attention: Tensor | None, *, grid: Grid = None) -> Selected:
    """Tokens in the middle of equal shares of the grid.

    R rows are taken in the middle of R equal strips of the image, with about as much room between rows as
    between the tokens of a row: ``R = sqrt(keep * height / width)``, rounded. They share the tokens evenly,
    each row the middles of as many equal shares of its width.

    Options:
        grid: (height, width) of the image in tokens, row by row, with ``height * width = N``. None takes the
            square, and one row where N is no square.

    Source: the usual control; no paper.
    """
    tokens = x.shape[1]
    side = math.isqrt(tokens)
    if grid is None:
        grid = (side, side) if side * side == tokens else (1, tokens)
    height, width = grid
    if height * width != tokens:
        raise ValueError(f"uniform: grid must be (height, width) of {tokens} tokens, got {grid}")
    fewest, most = -(-keep // width), min(height, keep)
    rows = min(max(round(math.sqrt(keep * height / width)), fewest), most)
    indices = []
    for row, y in enumerate(_middles(rows, height)):
        in_row = (row + 1) * keep // rows - row * keep // rows
        indices += [y * width + column for column in _middles(in_row, width)]
    kept = torch.tensor(indices, dtype=torch.int64, device=x.device)
    return Selected(kept.expand(x.shape[0], -1).contiguous())


def _middles(count: int, length: int) -> list[int]:
    """Middles of ``count <= length`` equal shares of ``length`` places: all different, ascending."""
    return [(2 * i + 1) * length // (2 * count) for i in range(count)]


def norm(x: Tensor, keep: int, attention: Tensor | None) -> Selected:
    """The longest rows: ``s_i = ||x_i||_2``.

    Source: the usual control; no paper.
    """
    scores = torch.linalg.vector_norm(x, dim=-1, dtype=torch.float64)
    return Selected(highest(scores, keep), scores=scores)
