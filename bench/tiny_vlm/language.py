"""Stage B: projector and language model, on the trained tower's features.

The tower is frozen, as in LLaVA's own first stage. Beside the answers, the token that ends a thing's name
learns to tell where the thing is, or that there is none, which is the step that relations between two things
and questions of existence need.
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
from bench.tiny_vlm.muon import optimisers
from bench.tiny_vlm.packing import IGNORED, NOWHERE, PREFIX, QUOTA, Packed, Packer
from bench.tiny_vlm.samples import batches, pixel_values
from bench.tiny_vlm.tower import features_of
from svdprune_ext.tiny_vlm.samples import Sample, sample
from svdprune_ext.tiny_vlm.splits import TRAIN, VALIDATION

_LEARNING_RATE = 4e-3
_LENGTH = 256  # tokens of questions an image
_NAMED_AFTER = 2  # decoder layers after which a name is to be found in the image
_NAMED_WEIGHT = 1.0  # beside the answers
_HELD = 16  # validation images for each of a batch


class Where(nn.Module):
    """Reads a thing's column and row, or nowhere, off the token that names it; thrown away later."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(WIDTH)
        self.read = nn.Linear(WIDTH, 2 * (NOWHERE + 1))

    def loss(self, hidden: Tensor, things: Tensor) -> Tensor:
        """Cross-entropy over the tokens of ``hidden`` ``[n, length, width]`` that name a thing."""
        named = things[..., 0] >= 0
        logits = self.read(self.norm(hidden[named])).view(-1, NOWHERE + 1)
        return F.cross_entropy(logits, things[named].flatten())


def train_language(
    model: Any, tokenizer: Any, minutes: float, batch: int, first: int, seed: int
) -> None:
    """Trains projector and language model.

    Args:
        model: The model, its tower trained; changed in place.
        tokenizer: Its tokenizer.
        minutes: CPU time.
        batch: Images a step.
        first: Number of the first training image.
        seed: Of the choice of questions.
    """
    budget = Budget(60 * minutes)
    tower = model.model.vision_tower.requires_grad_(False)
    rng, packer, where = np.random.default_rng(seed), Packer(tokenizer, _LENGTH), Where()
    source = batches(TRAIN, first, batch)

    def next_loss() -> tuple[Tensor, dict[str, float]]:
        samples = next(source)
        with torch.no_grad():
            features = features_of(tower, pixel_values(samples))[:, 1:]
        return _loss(model, where, packer.pack(samples, rng), features)

    parts = [model.model.multi_modal_projector, model.model.language_model, model.lm_head, where]
    inner = [model.model.multi_modal_projector, model.model.language_model.layers]
    fit(
        "language",
        budget,
        optimisers(parts, inner, _LEARNING_RATE),
        parts,
        next_loss,
        _reporter(model, packer, [sample(VALIDATION, index) for index in range(_HELD * batch)]),
        reports=8,
    )


def run(model: Any, packed: Packed, features: Tensor) -> tuple[Tensor, Tensor]:
    """Runs packed questions.

    Args:
        model: The model.
        packed: The questions.
        features: Of the images, before the projector, ``[n, patches, width]``.

    Returns:
        The hidden states of the questions' tokens after ``_NAMED_AFTER`` layers and after the last,
        ``[n, length, width]`` each.
    """
    inner = model.model
    embed = inner.language_model.embed_tokens
    begin = torch.full((len(features), 1), model.config.text_config.bos_token_id)
    image = inner.multi_modal_projector(features)
    embeddings = torch.cat([embed(begin), image, embed(packed.ids)], dim=1)
    prefix = torch.arange(PREFIX).expand(len(features), -1)
    output = inner.language_model(
        inputs_embeds=embeddings,
        attention_mask=packed.mask(),
        position_ids=torch.cat([prefix, packed.positions], dim=1),
        use_cache=False,
        output_hidden_states=True,
    )
    named, last = output.hidden_states[_NAMED_AFTER], output.last_hidden_state
    return named[:, PREFIX:], last[:, PREFIX:]


def _loss(
    model: Any, where: Where, packed: Packed, features: Tensor
) -> tuple[Tensor, dict[str, float]]:
    named, last = run(model, packed, features)
    answers = packed.labels != IGNORED
    answer_loss = F.cross_entropy(model.lm_head(last[answers]), packed.labels[answers])
    where_loss = where.loss(named, packed.things)
    figures = {"answers": answer_loss.item(), "named": where_loss.item()}
    return answer_loss + _NAMED_WEIGHT * where_loss, figures


def _reporter(model: Any, packer: Packer, held: list[Sample]) -> Callable[[], str]:
    """Share of validation questions of each kind whose every answer token comes out right."""
    packed = packer.pack(held, np.random.default_rng(0))
    with torch.no_grad():
        features = features_of(model.model.vision_tower, pixel_values(held))[:, 1:]

    @torch.no_grad()
    def report() -> str:
        right, asked = np.zeros(len(QUOTA)), np.zeros(len(QUOTA))
        _, last = run(model, packed, features)
        wrong = (model.lm_head(last).argmax(-1) != packed.labels) & (packed.labels != IGNORED)
        for row, kinds in enumerate(packed.kinds):
            for number, kind in enumerate(kinds[kinds >= 0]):
                asked[kind] += 1
                right[kind] += not wrong[row, packed.owner[row] == number + 1].any()
        shares = right / np.maximum(asked, 1)
        return "validation: " + ", ".join(
            f"{k} {s:.3f}" for k, s in zip(QUOTA, shares, strict=True)
        )

    return report
