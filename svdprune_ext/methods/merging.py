"""VisionZip: the tokens that matter, and the rest merged into a few."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from svdprune_ext.methods.method import Selected
from svdprune_ext.methods.options import Number, one_of
from svdprune_ext.methods.ranking import highest, rows_at, unit_rows, where_true

_CONTEXTUAL = 10 / 64  # the paper's 54 dominant and 10 contextual tokens


def visionzip(
    x: Tensor,
    keep: int,
    attention: Tensor,
    *,
    contextual: Number = None,
    merge: Annotated[str, one_of("average", "add")] = "average",
) -> Selected:
    """Dominant tokens by attention, contextual tokens by merging the rest.

    The dominant tokens are those of highest attention. Of the rest, every s-th becomes a target; each other
    joins the target most similar to it, and a target with those that joined it makes a contextual token.

    The paper compares keys of the attention; here the cosine of the features does, as no keys are at hand. It
    also keeps [CLS] itself, which LLaVA's features lack.

    Options:
        contextual: Number of contextual tokens; ``keep``, where that is smaller. None takes the paper's
            share, 10 of 64, rounded.
        merge: "average": the mean of the target and those that joined it, as the text says. "add": the target
            plus the mean of those that joined it, as public implementations have it.

    Source: VisionZip, arXiv 2412.04467, its dominant and contextual tokens.
    """
    if contextual is None:
        contextual = round(keep * _CONTEXTUAL)
    contextual = min(contextual, keep)
    dominant = highest(attention, keep - contextual)
    kept = torch.zeros_like(attention, dtype=torch.bool).scatter(1, dominant, True)
    rest = where_true(~kept, x.shape[1] - dominant.shape[1])  # [B, R]
    if contextual > 0:
        stride = rest.shape[1] // contextual
        places = torch.arange(contextual, device=x.device) * stride
        targets = rest[:, places]
        merged = _merged(x, rest, places, merge)
        kept = kept.scatter(1, targets, True)
        x = x.scatter(1, targets.unsqueeze(-1).expand_as(merged), merged)
    indices = where_true(kept, keep)
    return Selected(indices, tokens=rows_at(x, indices))


def _merged(x: Tensor, rest: Tensor, places: Tensor, merge: str) -> Tensor:
    """Tokens [B, C, D] of the R tokens at ``rest`` [B, R], merged into those at ``places`` [C] among them."""
    rows, directions = rows_at(x, rest), rows_at(unit_rows(x), rest)
    nearest = (directions @ directions[:, places].mT).argmax(-1)  # [B, R]
    nearest[:, places] = torch.arange(len(places), device=x.device)
    joins = nearest.unsqueeze(1) == torch.arange(len(places), device=x.device).view(-1, 1)
    work = torch.float64 if x.dtype == torch.float64 else torch.float32
    if merge == "add":
        joins[:, torch.arange(len(places), device=x.device), places] = False
    members = joins.to(work)
    mean = members @ rows.to(work) / members.sum(-1, keepdim=True).clamp_min(1)
    if merge == "add":
        mean = mean + rows[:, places].to(work)
    return mean.to(x.dtype)
