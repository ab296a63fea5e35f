"""Which vision tokens of a call of the encoder are kept.

Note [scored groups and budgets]
Tiles make up images, images make up prompts. ``scope`` says over which of these one SVD runs, ``per`` which
of these has a budget of its own. Tokens compete within a *unit*, the smaller of the two. Where a budget
spans several units, it is shared among them in proportion to their ranks; their scores are not
compared, as each sums to its own rank.

Everything but such a sharing stays on the device, with no wait for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from svdprune_ext.energy import captured_energy
from svdprune_ext.in_decoder.counts import fixed_count
from svdprune_ext.methods import get
from svdprune_ext.models.settings import LEVELS, Settings
from svdprune_ext.ops import leverage_scores, prune, prune_adaptive, prune_varlen


@dataclass
class Choice:
    """Which of T tokens are kept.

    Attributes:
        kept: Whether each token is, bool [T].
        scores: Leverage of each, with "pivoted" its share of the energy, or the method's score [T]; NaN where
            the method has none.
        rank: Number of leading directions of each scored group, with "pivoted" of the kept tokens', int32; 0
            where the method has none.
        total: Number of tokens kept; None where only the device knows.
        tokens: What stands for the kept tokens [total, D], in order, where the method merges.
        energy: Share of its energy that each image keeps, float64 [images], where it was asked for.
    """

    kept: Tensor
    scores: Tensor
    rank: Tensor
    total: int | None
    tokens: Tensor | None = None
    energy: Tensor | None = None


def choose(
    features: Tensor,
    tiles: list[list[int]],
    images_of_prompts: list[int] | None,
    s: Settings,
    attention: Tensor | None = None,
) -> Choice:
    """Scores the tokens and keeps as many of each unit as the budget says; see the note above.

    Args:
        features: [T, D].
        tiles: Number of tokens of each tile of each image.
        images_of_prompts: Number of images of each prompt; None takes all images for one prompt's.
        s: The arguments of ``apply``.
        attention: What each token is given [T], where the method needs it.
    """
    sizes = _sizes(tiles, images_of_prompts)
    if s.method != "svd":
        choice = _by_method(features, attention, sizes[s.per], s)
    elif s.scope == s.per:
        choice = _by_operator(features, sizes[s.per], s)
    else:
        choice = _by_leverage(features, sizes, s)
    if s.energy:
        choice.energy = _energy(features, choice.kept, sizes["image"])
    return choice


def _by_leverage(features: Tensor, sizes: dict[str, list[int]], s: Settings) -> Choice:
    """By scores of other groups than those that have a budget."""
    scores, rank = _score(features, sizes[s.scope], s)
    unit = min(s.scope, s.per, key=LEVELS.index)
    if unit == s.per:
        counts = [_count(s.keep, n) for n in sizes[unit]]
    else:
        counts = _share(s.keep, sizes[s.per], sizes[unit], rank.tolist())
    kept = _highest(scores, sizes[unit], counts, s.coverage)
    return Choice(kept, scores, rank, sum(counts) if s.counts_are_fixed else None)


def _sizes(tiles: list[list[int]], images_of_prompts: list[int] | None) -> dict[str, list[int]]:
    """Number of tokens of each tile, image and prompt."""
    images = [sum(image) for image in tiles]
    prompts, first = [], 0
    for count in images_of_prompts if images_of_prompts is not None else [len(images)]:
        prompts.append(sum(images[first : first + count]))
        first += count
    return {"tile": [n for image in tiles for n in image], "image": images, "prompt": prompts}


def _by_method(
    features: Tensor, attention: Tensor | None, lengths: list[int], s: Settings
) -> Choice:
    """What another method than SVD-Prune keeps of each group; neighbours of equal length go side by side."""
    method, first = get(s.method), 0
    kept, scores, tokens = [], [], []
    for n, run in groupby(length for length in lengths if length > 0):
        groups = len(list(run))
        part, first = slice(first, first + groups * n), first + groups * n
        selected = method.select(
            features[part].unflatten(0, (groups, n)),
            _count(s.keep, n),
            attention=None if attention is None else attention[part].unflatten(0, (groups, n)),
            **s.options,
        )
        mask = torch.zeros(groups, n, dtype=torch.bool, device=features.device)
        kept.append(mask.scatter(1, selected.indices, True).flatten())
        if selected.scores is not None:
            scores.append(selected.scores.flatten().float())
        if selected.tokens is not None:
            tokens.append(selected.tokens.flatten(0, 1))
    without = torch.full((len(features),), torch.nan, device=features.device)
    return Choice(
        torch.cat(kept) if kept else without.bool(),
        torch.cat(scores) if scores else without,
        torch.zeros(len(lengths), dtype=torch.int32, device=features.device),
        sum(_count(s.keep, n) for n in lengths),
        torch.cat(tokens) if tokens else None,
    )


def _by_operator(features: Tensor, lengths: list[int], s: Settings) -> Choice:
    """What the operator keeps of each group, all stages in it; one call for neighbours of equal length."""
    kept, scores, ranks, first = [], [], [], 0
    for n, run in groupby(lengths):
        groups = len(list(run))
        part, first = slice(first, first + groups * n), first + groups * n
        x, keep = features[part].view(groups, n, features.shape[-1]), _count(s.keep, n)
        options = _options(s, min(n, x.shape[-1]))
        found = (
            prune(x, keep, select=s.select, **options)
            if s.coverage is None
            else prune_adaptive(x, keep, coverage=s.coverage, select=s.select, **options)
        )
        # A place left over has index -1, and goes to a column that is cut off.
        mask = torch.zeros(groups, n + 1, dtype=torch.bool, device=features.device)
        mask = mask.scatter(1, found.indices.where(found.indices >= 0, n), True)[:, :n]
        kept.append(mask.flatten())
        scores.append(found.scores.flatten())
        ranks.append(found.rank)
    total = sum(_count(s.keep, n) for n in lengths) if s.counts_are_fixed else None
    return Choice(torch.cat(kept), torch.cat(scores), torch.cat(ranks), total)


def _options(s: Settings, rank_limit: int) -> dict[str, Any]:
    """Of the operator, for images whose rank is at most so much."""
    rank = None if s.rank is None else min(s.rank, rank_limit)
    return {"variance": s.variance, "rank": rank, "center": s.center, "solver": s.solver}


def _energy(features: Tensor, kept: Tensor, lengths: list[int]) -> Tensor:
    """Share of its energy that each image keeps."""
    parts = zip(features.split(lengths), kept.split(lengths), strict=True)
    return torch.stack([captured_energy(x, mask.nonzero().squeeze(-1)) for x, mask in parts])


def _score(features: Tensor, lengths: list[int], s: Settings) -> tuple[Tensor, Tensor]:
    """Leverage [T], each group by itself, and rank [groups]."""
    longest, width = max(lengths), features.shape[-1]
    if min(lengths) == longest:
        groups = features.unflatten(0, (len(lengths), longest))
        scores, ranks = leverage_scores(groups, **_options(s, min(longest, width)))
        return scores.flatten(), ranks
    ends = _repeated([0, *lengths], [1] * (len(lengths) + 1), features.device).cumsum(0)
    pruned = prune_varlen(
        features,
        ends,
        torch.zeros_like(ends),  # scores only
        total_keep=0,
        max_seqlen=longest,
        **_options(s, width),
    )
    return pruned.scores, pruned.rank


def _count(keep: int | float, tokens: int) -> int:
    return fixed_count(keep, tokens, at_first=tokens)


def _share(keep: int | float, budgets: list[int], units: list[int], ranks: list[int]) -> list[int]:
    """Shares each budget among its units: by rank, by largest remainder, none beyond its tokens."""
    counts, first = [], 0
    for tokens in budgets:
        last = first
        while sum(units[first:last]) < tokens:
            last += 1
        counts += _apportion(_count(keep, tokens), units[first:last], ranks[first:last])
        first = last
    return counts


def _apportion(total: int, limits: list[int], weights: list[int]) -> list[int]:
    counts = [0] * len(limits)
    open_ = [i for i, limit in enumerate(limits) if limit > 0]
    while open_:
        weight = sum(max(weights[i], 1) for i in open_)
        quotas = {i: total * max(weights[i], 1) / weight for i in open_}
        full = [i for i in open_ if quotas[i] >= limits[i]]
        if not full:
            break
        for i in full:
            counts[i] = limits[i]
            total -= limits[i]
        open_ = [i for i in open_ if i not in full]
    for i in open_:
        counts[i] = int(quotas[i])
    left = total - sum(counts[i] for i in open_)
    for i in sorted(open_, key=lambda i: (counts[i] - quotas[i], i))[:left]:
        counts[i] += 1
    return counts


def _highest(
    scores: Tensor, lengths: list[int], counts: list[int], coverage: float | None
) -> Tensor:
    """Bool [T]: the tokens of highest score of each unit; of equal ones, the first."""
    tokens, device = scores.shape[0], scores.device
    unit_of = _repeated(list(range(len(lengths))), lengths, device)
    order = scores.argsort(descending=True, stable=True)
    order = order[unit_of[order].argsort(stable=True)]  # by unit, then by falling score

    starts = [sum(lengths[:unit]) for unit in range(len(lengths))]
    place = torch.arange(tokens, device=device) - _repeated(starts, lengths, device)
    wanted = place < _repeated(counts, lengths, device)
    if coverage is not None:
        mass = scores[order].double()
        before = mass.cumsum(0) - mass
        total = mass.new_zeros(len(lengths)).index_add(0, unit_of, mass)
        first = (total.cumsum(0) - total)[unit_of]
        wanted &= before - first < coverage * total[unit_of]
    return torch.zeros(tokens, dtype=torch.bool, device=device).scatter(0, order, wanted)


def _repeated(values: list[int], times: list[int], device: torch.device) -> Tensor:
    """Each value so many times, int64. Filled on the device: a copy from the host would wait for it."""
    return torch.cat(
        [torch.full((n,), v, device=device) for v, n in zip(values, times, strict=True)]
    )
