"""Stage A: the vision tower alone.

Every patch of the features that LLaVA takes (second to last layer) learns to tell what it shows; the [CLS]
token of the last layer learns what the image shows, so that its attention means something.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.tiny_vlm.build import WIDTH
from bench.tiny_vlm.fit import Budget, fit
from bench.tiny_vlm.labels import DENSE, TAGS, dense_labels, tags
from bench.tiny_vlm.muon import optimisers
from bench.tiny_vlm.pages import Page, page
from bench.tiny_vlm.samples import batches, normalise, pixel_values
from bench.tiny_vlm.start import start_tower
from svdprune_ext.tiny_vlm.samples import Sample, sample
from svdprune_ext.tiny_vlm.splits import TRAIN, VALIDATION

_LEARNING_RATE = 4e-3
_OF_NOTHING = 0.2  # weight of patches that show nothing of a label's kind
_WEIGHTS = {"glyph": 2.0}  # of a label's loss, where not 1: characters take longest to learn


class Heads(nn.Module):
    """Linear read-outs of the tower; thrown away after the stage."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.dense = nn.Linear(WIDTH, sum(DENSE.values()))
        self.tags = nn.Linear(WIDTH, TAGS)

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        """Takes features ``[n, patches, width]`` to logits ``[n, patches, classes]`` of each label."""
        parts = self.dense(self.norm(features)).split(list(DENSE.values()), dim=-1)
        return dict(zip(DENSE, parts, strict=True))


def train_tower(tower: Any, minutes: float, batch: int, first: int) -> int:
    """Trains the vision tower from its start.

    Args:
        tower: The ``CLIPVisionModel``; changed in place.
        minutes: CPU time.
        batch: Images a step; half of them are pages.
        first: Number of the first training image.

    Returns:
        The number of the next training image that was not used.
    """
    budget = Budget(60 * minutes)
    start_tower(tower, pixel_values([sample(TRAIN, first + i) for i in range(8 * batch)]))
    heads = Heads()
    source = batches(TRAIN, first, batch // 2)
    used = first

    def next_loss() -> tuple[Tensor, dict[str, float]]:
        nonlocal used
        pages = [page(TRAIN, used + i) for i in range(batch // 2)]
        used += batch // 2
        return _loss(tower, heads, next(source), pages)

    held = [sample(VALIDATION, i) for i in range(4 * batch)]
    fit(
        "tower",
        budget,
        optimisers([tower, heads], [tower.encoder], _LEARNING_RATE),
        [tower, heads],
        next_loss,
        _reporter(tower, heads, held),
    )
    return used


def features_of(tower: Any, pixels: Tensor) -> Tensor:
    """Returns the hidden state that LLaVA takes, with [CLS] in front: ``[n, 1 + patches, width]``.

    The last layer, which LLaVA does not use, is not computed.
    """
    hidden = tower.pre_layrnorm(tower.embeddings(pixels))
    for layer in tower.encoder.layers[:-1]:
        hidden = layer(hidden, None)
    return hidden


def pooled_of(tower: Any, hidden: Tensor) -> Tensor:
    """Goes on from ``features_of`` to the pooled [CLS] token of the last layer, ``[n, width]``."""
    return tower.post_layernorm(tower.encoder.layers[-1](hidden, None)[:, 0])


def _targets(samples: list[Sample]) -> Tensor:
    return torch.from_numpy(np.stack([dense_labels(s.scene) for s in samples]))


def _loss(
    tower: Any, heads: Heads, samples: list[Sample], pages: list[Page]
) -> tuple[Tensor, dict[str, float]]:
    images = [*(s.image for s in samples), *(image for image, _ in pages)]
    hidden = features_of(tower, normalise(np.stack(images)))
    of_pages = [torch.from_numpy(labels)[None] for _, labels in pages]
    targets = torch.cat([_targets(samples), *of_pages])
    parts = {}
    for position, (name, logits) in enumerate(heads(hidden[:, 1:]).items()):
        weight = torch.ones(DENSE[name])
        if name not in ("column", "row"):
            weight[0] = _OF_NOTHING
        truth = targets[..., position].flatten()
        parts[name] = F.cross_entropy(logits.flatten(0, 1), truth, weight)
    shown = torch.from_numpy(np.stack([tags(s.scene) for s in samples]))
    tag_logits = heads.tags(pooled_of(tower, hidden[: len(samples)]))
    parts["tags"] = F.binary_cross_entropy_with_logits(tag_logits, shown)
    loss = torch.stack([_WEIGHTS.get(name, 1.0) * part for name, part in parts.items()]).sum()
    return loss, {name: part.item() for name, part in parts.items()}


def _reporter(tower: Any, heads: Heads, held: list[Sample]) -> Callable[[], str]:
    """Accuracy on validation images: of each label over the patches that show something of its kind."""

    @torch.no_grad()
    def report() -> str:
        hidden = features_of(tower, pixel_values(held))
        targets = _targets(held)
        shares = []
        for position, (name, logits) in enumerate(heads(hidden[:, 1:]).items()):
            truth = targets[..., position]
            right = (logits.argmax(-1) == truth)[truth > 0].float().mean().item()
            shares.append(f"{name} {right:.3f}")
        shown = torch.from_numpy(np.stack([tags(s.scene) for s in held]))
        right = ((heads.tags(pooled_of(tower, hidden)) > 0) == (shown > 0.5)).float().mean().item()
        return "validation: " + " ".join([*shares, f"tags {right:.3f}"])

    return report
