"""How much of the features the kept rows can tell."""

from __future__ import annotations

import torch
from torch import Tensor

from svdprune_ext.energy import captured_energy


def span_shares(features: Tensor, kept: Tensor) -> Tensor:
    """Share of ``||X||_F^2`` in the span of its kept rows, of each image, by ``captured_energy``.

    Args:
        features: X [images, N, D].
        kept: Whether each row is kept, bool [images, N].

    Returns:
        float64 [images], in [0, 1].
    """
    pairs = zip(features, kept, strict=True)
    return torch.stack([captured_energy(x, mask.nonzero().squeeze(1)) for x, mask in pairs])
