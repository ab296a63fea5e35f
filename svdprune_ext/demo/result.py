"""Everything that the demonstration found out, and its JSON."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

import svdprune_ext
from svdprune_ext.demo.agreement import Agreement
from svdprune_ext.demo.measure import Run
from svdprune_ext.demo.picture import Asked
from svdprune_ext.demo.settings import Settings


@dataclass(frozen=True)
class Result:
    """Both runs on one photograph, and their comparison with the oracle.

    Attributes:
        settings: What was asked for.
        photo_name: The photograph's name.
        model_name: The model's name.
        meaningful: Whether the model's text means anything.
        device: Where it ran.
        dtype: Of weights and features.
        full: The run with all vision tokens.
        pruned: The run with ``keep`` of them.
        agreement: The pruned run against the oracle.
        asked: Questions whose right answers are known; none about a photograph.
    """

    settings: Settings
    photo_name: str
    model_name: str
    meaningful: bool
    device: str
    dtype: str
    full: Run
    pruned: Run
    agreement: Agreement
    asked: tuple[Asked, ...] = ()

    @property
    def right_answer(self) -> str | None:
        """The right answer to the question of the two runs, where it is known."""
        known = {each.question.text: each.question.answer for each in self.asked}
        return known.get(self.settings.question or "")

    @property
    def indices(self) -> Tensor:
        """Kept tokens, ascending [keep]."""
        assert self.pruned.indices is not None
        return self.pruned.indices

    @property
    def scores(self) -> Tensor:
        """Of every token [N]: leverage, or with "pivoted" the share of the energy that it added."""
        assert self.pruned.scores is not None
        return self.pruned.scores

    @property
    def num_tokens(self) -> int:
        """Vision tokens before pruning."""
        return len(self.scores)

    @property
    def grid(self) -> int:
        """Patches along a side; a [CLS] token that the model keeps is no patch."""
        return math.isqrt(self.num_tokens)

    @property
    def first_patch(self) -> int:
        """Index of the first patch: 1 where token 0 is [CLS]."""
        return self.num_tokens - self.grid**2

    def kept_cells(self) -> list[tuple[int, int]]:
        """Row and column of every kept patch."""
        patches = [int(index) - self.first_patch for index in self.indices]
        return [divmod(patch, self.grid) for patch in patches if patch >= 0]

    def leverage_share(self) -> float | None:
        """Share of the total leverage that the kept tokens hold; None for a rule without leverage."""
        if self.settings.pivoted:
            return None
        return _share(self.scores[self.indices].sum(), self.scores.sum())

    def energy_share(self) -> float:
        """Share of ``||X||_F^2`` in the kept rows themselves."""
        energy = self.pruned.features.double().square().sum(-1).cpu()
        return _share(energy[self.indices].sum(), energy.sum())

    def span_share(self) -> float:
        """Share of ``||X||_F^2`` in the span of the kept rows: what can be told from them."""
        features = self.pruned.features.double().cpu()
        _, sizes, basis = torch.linalg.svd(features[self.indices], full_matrices=False)
        basis = basis[sizes > 1e-10 * sizes[0]]
        return _share((features @ basis.mT).square().sum(), features.square().sum())

    def to_json(self) -> dict[str, Any]:
        """All the numbers, in types that JSON knows."""
        settings = {
            name: str(value) if value is not None and name in ("photo", "out") else value
            for name, value in asdict(self.settings).items()
        }
        settings["variance"] = None if self.settings.pivoted else self.settings.energy_asked
        settings["seed"] = None if self.meaningful else self.settings.seed or 0
        settings["picture"] = (self.settings.picture or 0) if self.asked else None
        agreement = self.agreement
        return {
            "versions": {"svdprune_ext": svdprune_ext.__version__, "torch": torch.__version__},
            "settings": settings,
            "photo": self.photo_name,
            "model": self.model_name,
            "text_is_meaningful": self.meaningful,
            "device": self.device,
            "dtype": self.dtype,
            "threads": torch.get_num_threads(),
            "num_tokens": self.num_tokens,
            "indices": self.indices.tolist(),
            "cells": self.kept_cells(),
            "scores": self.scores.tolist(),
            "rank": agreement.rank,
            "share": {
                "leverage": self.leverage_share(),
                "energy_of_rows": self.energy_share(),
                "energy_in_span": self.span_share(),
            },
            "relative_singular_values": agreement.energy.sqrt().tolist(),
            "seconds": {
                "all": self.full.all_seconds(),
                "kept": self.pruned.all_seconds(),
            },
            "text": {"all": self.full.text, "kept": self.pruned.text, "right": self.right_answer},
            "asked": [
                {**asdict(each.question), "all": each.full, "kept": each.pruned}
                for each in self.asked
            ],
            "agreement": {
                "agrees": agreement.agrees,
                "reasons": list(agreement.reasons),
                "top_k_overlap": agreement.overlap,
                "max_score_difference": agreement.max_score_difference,
                "score_tolerance": agreement.score_tolerance,
                "gap": agreement.gap,
                "oracle_rank": agreement.oracle_rank,
                "oracle_indices": agreement.oracle_indices.tolist(),
                "rows_equal": agreement.rows_equal,
            },
        }


def _share(part: Tensor, whole: Tensor) -> float:
    return float(part / whole) if whole > 0 else 0.0
