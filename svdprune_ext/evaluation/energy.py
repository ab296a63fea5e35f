"""How much of the features the kept rows can tell."""

from __future__ import annotations

import torch
from torch import Tensor


def span_shares(features: Tensor, kept: Tensor) -> Tensor:
    """Share of ``||X||_F^2`` that the projection of X onto the span of its kept rows holds, of each image.

    In float64, by an SVD of the kept rows; directions below 1e-10 of the largest are none.

    Args:
        features: X [images, N, D].
        kept: Whether each row is kept, bool [images, N].

    Returns:
        float64 [images], in [0, 1]; NaN for an image of zeros.
    """
    shares = []
    for x, mask in zip(features.double(), kept, strict=True):
        _, sizes, basis = torch.linalg.svd(x[mask], full_matrices=False)
        basis = basis[sizes > 1e-10 * sizes.max()] if len(sizes) else basis
        shares.append((x @ basis.mT).square().sum() / x.square().sum())
    return torch.stack(shares).clamp_max(1)
