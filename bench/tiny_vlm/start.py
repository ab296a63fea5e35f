"""Where the vision tower starts from.

A random start does not learn to read within the time. This one sees neighbourhoods from the first step:
content and position take separate dimensions, patches are whitened, and the heads of the first two layers
each look at one neighbouring patch.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from bench.tiny_vlm.build import GRID, PATCH, WIDTH

_POSITION = 32  # dimensions for the position: 8 frequencies x (sine, cosine) x (column, row)
_CONTENT = WIDTH - _POSITION
# Of the positions' sines: above most contents, so that layer norm leaves them alike in every patch. Else a
# patch full of ink, its sines scaled down, loses the heads' eye to a blank one beside it.
_AMPLITUDE = 4.0
_SHARPNESS = 1.2  # of the heads that look at one neighbour
_SHIFTS = (((1, 0), (-1, 0), (0, 1), (0, -1)), ((1, 1), (1, -1), (-1, 1), (-1, -1)))


@torch.no_grad()
def start_tower(tower: Any, pixels: Tensor) -> None:
    """Sets a CLIP tower's starting values.

    Args:
        tower: The ``CLIPVisionModel``.
        pixels: Some hundred images as the processor gives them, ``[n, 3, side, side]``.
    """
    embeddings = tower.embeddings
    embeddings.patch_embedding.weight.copy_(_whitening(pixels))
    embeddings.class_embedding.zero_()
    embeddings.class_embedding[:_CONTENT].normal_()
    embeddings.position_embedding.weight.zero_()
    embeddings.position_embedding.weight[1:, _CONTENT:] = _positions()
    for layer, shifts in zip(tower.encoder.layers, _SHIFTS, strict=False):
        attention = layer.self_attn
        size = WIDTH // len(shifts)
        attention.q_proj.weight.zero_()
        attention.k_proj.weight.zero_()
        for head, shift in enumerate(shifts):
            rows = slice(head * size, (head + 1) * size)
            attention.q_proj.weight[rows, _CONTENT:] = _SHARPNESS * _rotation(*shift)
            attention.k_proj.weight[rows, _CONTENT:] = _SHARPNESS * torch.eye(_POSITION)
    for layer in tower.encoder.layers:
        layer.self_attn.v_proj.weight.normal_(std=WIDTH**-0.5)
        layer.self_attn.out_proj.weight.normal_(std=0.5 * WIDTH**-0.5)
    # The first layer hands on each neighbour's leading components, unmixed.
    first = tower.encoder.layers[0].self_attn.v_proj.weight
    first.copy_(torch.eye(WIDTH // 4, WIDTH).repeat(4, 1))


def _frequencies() -> Tensor:
    # Radians a patch: from one turn in two widths of the image to half a turn a patch.
    return math.pi * torch.logspace(math.log10(1 / GRID), 0, _POSITION // 4)


def _positions() -> Tensor:
    at = torch.arange(GRID)[:, None] * _frequencies()
    axis = _AMPLITUDE * torch.cat([at.sin(), at.cos()], dim=1)
    columns = axis.repeat(GRID, 1)
    rows = axis.repeat_interleave(GRID, dim=0)
    return torch.cat([columns, rows], dim=1)


def _rotation(columns: int, rows: int) -> Tensor:
    """The matrix that takes the position of a patch to that of its neighbour."""
    blocks = []
    for step in (columns, rows):
        sine, cosine = (step * _frequencies()).sin().diag(), (step * _frequencies()).cos().diag()
        blocks.append(torch.cat([torch.cat([cosine, sine], 1), torch.cat([-sine, cosine], 1)]))
    return torch.block_diag(*blocks)


def _whitening(pixels: Tensor) -> Tensor:
    """Leading principal components of the patches, scaled to about unit variance, as convolution kernels."""
    patches = pixels.unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH)
    flat = patches.permute(0, 2, 3, 1, 4, 5).reshape(-1, 3 * PATCH * PATCH)
    values, vectors = torch.linalg.eigh(torch.cov(flat.T))
    values, vectors = values.flip(0)[:_CONTENT], vectors.flip(1)[:, :_CONTENT]
    kernels = torch.zeros(WIDTH, 3 * PATCH * PATCH)
    # The floor keeps pixel noise, the last components, from being blown up to the size of edges.
    kernels[:_CONTENT] = (vectors / (values + 0.02).sqrt()).T
    return kernels.view(WIDTH, 3, PATCH, PATCH)
