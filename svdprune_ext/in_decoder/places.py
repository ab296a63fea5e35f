"""Tokens of a padded batch by their places, -1 where a row has fewer than the longest."""

from __future__ import annotations

import torch
from torch import Tensor


def places_of(mask: Tensor, most: int) -> Tensor:
    """Where bool [B, M] is true, ascending, then -1: int64 [B, most], most being at least any row's count."""
    length = mask.shape[1]
    place = torch.arange(length, device=mask.device).expand_as(mask)
    sorted_places = torch.where(mask, place, length).sort(1).values[:, :most]
    return sorted_places.masked_fill(sorted_places == length, -1)


def mask_of(places: Tensor, length: int) -> Tensor:
    """The way back: int64 [B, n] of places or -1 -> bool [B, length]."""
    mask = torch.zeros(places.shape[0], length + 1, dtype=torch.bool, device=places.device)
    return mask.scatter(1, places.where(places >= 0, length), True)[:, :length]


def rows_at(x: Tensor, places: Tensor) -> Tensor:
    """Rows [B, n, D] of x [B, M, D]; whatever stands first where the place is -1."""
    index = places.clamp_min(0).unsqueeze(-1).expand(-1, -1, x.shape[-1])
    return x.gather(1, index)
