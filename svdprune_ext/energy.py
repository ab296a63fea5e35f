"""How much of an image's energy a selection holds, whatever the rule that made it."""

from __future__ import annotations

import torch
from torch import Tensor

_INDEPENDENT = 1e-10  # of the largest singular value: below, a row adds no direction of its own


def captured_energy(x: Tensor, indices: Tensor) -> Tensor:
    """Share of the energy ``||x||_F^2`` in the span of the kept tokens.

    For study, not service: it decomposes the kept rows in float64, and waits for a CUDA device. The scores
    of select "pivoted" sum to it.

    Args:
        x: Vision tokens [B, N, D] or [N, D]; float64, float32, float16 or bfloat16.
        indices: Positions of the kept tokens, int64 [B, K] or [K]; -1 is none.

    Returns:
        Shares in [0, 1], float64 [B], or a scalar tensor for [N, D]; 0 for an image that is zero.

    Raises:
        ValueError: The shapes do not belong together, an index is no position of x, or x holds NaN or Inf.
        TypeError: x or indices is no tensor, or indices are not whole numbers.
    """
    for name, tensor in (("x", x), ("indices", indices)):
        if not isinstance(tensor, Tensor):
            raise TypeError(
                f"captured_energy: {name} must be a Tensor, got {type(tensor).__name__}"
            )
    if indices.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"captured_energy: indices must be int64 or int32, got {indices.dtype}")
    if x.dim() not in (2, 3) or indices.dim() != x.dim() - 1 or indices.shape[:-1] != x.shape[:-2]:
        raise ValueError(
            "captured_energy: indices must be [B, K] for x [B, N, D], or [K] for [N, D], got shapes "
            f"{list(indices.shape)} and {list(x.shape)}"
        )
    tokens = x.shape[-2]
    if indices.numel() and not bool(((indices >= -1) & (indices < tokens)).all()):
        raise ValueError(f"captured_energy: indices must be in [-1, {tokens - 1}], got others")
    x, indices = x.detach().double(), indices.long()
    if not bool(x.isfinite().all()):
        raise ValueError("captured_energy: x must be finite, got NaN or Inf")
    largest = x.abs().amax((-2, -1), keepdim=True) if x.numel() else x.new_ones(1)
    x = x / largest.where(largest > 0, 1)  # whose squares fit
    rows = torch.cat([x, torch.zeros_like(x[..., :1, :])], dim=-2)  # -1 is a row of zeros
    at = indices.where(indices >= 0, tokens).unsqueeze(-1).expand(*indices.shape, x.shape[-1])
    _, lengths, directions = torch.linalg.svd(rows.gather(-2, at), full_matrices=False)
    if lengths.shape[-1] == 0:
        return x.new_zeros(x.shape[:-2])
    own = lengths > _INDEPENDENT * lengths.amax(-1, keepdim=True)
    held = (x @ directions.mT).square().sum(-2).where(own, 0).sum(-1)
    energy = x.square().sum((-2, -1))
    share: Tensor = held / energy.where(energy > 0, 1)
    return share.clamp_max(1)
