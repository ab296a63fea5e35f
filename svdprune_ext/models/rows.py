"""From the tokens that were chosen to the rows that ``get_image_features`` returns."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from svdprune_ext.methods.ranking import where_true
from svdprune_ext.models.family import Grid
from svdprune_ext.models.selection import Choice


def indices(kept: Tensor, total: int | None) -> Tensor:
    """Where bool [T] is true, ascending; without a wait for the device where the number is known."""
    if total is None:
        return kept.nonzero().squeeze(-1)
    return where_true(kept[None], total)[0]


def by_row(grid: Grid, choice: Choice) -> tuple[Tensor, Tensor]:
    """Kept and scores of the rows that ``get_image_features`` returns, separators included."""
    if grid.places is None:
        return choice.kept, choice.scores
    sizes = grid.rows_of_images()
    scores = choice.scores.new_zeros(sum(sizes)).scatter(0, grid.places, choice.scores)
    dropped = choice.kept.new_zeros(sum(sizes)).scatter(0, grid.places, ~choice.kept)
    separators = choice.kept.new_ones(sum(sizes)).scatter(0, grid.places, False)
    gone = [
        rows | rows_s & rows.any()
        for rows, rows_s in zip(dropped.split(sizes), separators.split(sizes), strict=True)
    ]
    return ~torch.cat(gone), scores


def with_tokens(rows: Any, grid: Grid, choice: Choice) -> Any:
    """The rows of all images, with merged tokens in place of the kept ones."""
    assert choice.tokens is not None
    places = indices(choice.kept, choice.total)
    if grid.places is not None:
        places = grid.places[places]
    images = [rows] if isinstance(rows, Tensor) else list(rows)
    flat = torch.cat([image.flatten(0, -2) for image in images])
    flat = flat.index_copy(0, places.to(flat.device), choice.tokens.to(flat))
    parts = flat.split([image.shape[:-1].numel() for image in images])
    images = [part.view(image.shape) for part, image in zip(parts, images, strict=True)]
    return images[0] if isinstance(rows, Tensor) else images


def with_nan(rows: Tensor, kept: Tensor) -> Tensor:
    """Rows [..., H] with NaN where bool kept [rows] is false.

    A kept row that begins with a NaN of the model's own becomes Inf: it is not to be taken for a dropped one.
    """
    mask = kept.view(*rows.shape[:-1], 1).to(rows.device)
    fill = torch.where(mask, float("inf"), float("nan")).to(rows.dtype)
    return torch.where(mask & ~rows[..., :1].isnan(), rows, fill)
