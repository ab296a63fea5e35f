"""Token recycling: the best of the dropped tokens come back as the means of a few clusters."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from svdprune_ext.in_decoder.counts import recycled_counts
from svdprune_ext.in_decoder.places import rows_at
from svdprune_ext.methods.ranking import highest, working


def density_peaks(x: Tensor, clusters: int) -> Tensor:
    """Clusters around tokens that lie dense, and far from any that lie denser.

    The density of a token is ``exp(-mean of d^2 to its k nearest)``, itself among them, k the number of
    clusters and d the Euclidean distance over the root of the width. The centres are the tokens of highest
    ``density * distance to the nearest denser one`` (for the densest: the largest distance of all). All
    others join their nearest centre. Of two of equal density the lower index is the denser, where the
    published code adds noise.

    Args:
        x: [B, n, D], 1 <= clusters <= n.
        clusters: Their number.

    Returns:
        The cluster of each token, int64 [B, n]; 0 is that of the highest centre.

    Source: SparseVLM, arXiv 2410.04417, section 3.4; density peaks: Rodriguez and Laio, Science 344, 2014.
    """
    x = working(x)
    # By differences, not by products: equal tokens are then exactly 0 apart.
    exact = "donot_use_mm_for_euclid_dist"
    distance: Tensor = torch.cdist(x, x, compute_mode=exact) / x.shape[-1] ** 0.5
    nearest = distance.topk(clusters, dim=-1, largest=False).values
    density = (-nearest.square().mean(-1)).exp()
    by_index = torch.ones_like(distance[0], dtype=torch.bool).tril(-1)
    own, others = density.unsqueeze(2), density.unsqueeze(1)
    is_denser = (others > own) | ((others == own) & by_index)
    largest = distance.amax((1, 2), keepdim=True)
    to_denser = torch.where(is_denser, distance, largest).amin(-1)
    centres = (to_denser * density).argsort(dim=1, descending=True, stable=True)[:, :clusters]
    to_centres = distance.gather(1, centres.unsqueeze(-1).expand(-1, -1, x.shape[1]))
    own_number = torch.arange(clusters, device=x.device).expand_as(centres)
    number: Tensor = to_centres.argmin(1).scatter(1, centres, own_number)
    return number


def means(x: Tensor, cluster: Tensor, clusters: int) -> Tensor:
    """The mean of each cluster's rows: x [B, n, D], cluster [B, n] -> [B, clusters, D] in x's dtype."""
    index = cluster.unsqueeze(-1).expand_as(x)
    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    sums = wide.new_zeros(x.shape[0], clusters, x.shape[-1]).scatter_add(1, index, wide)
    sizes = torch.zeros_like(sums[..., :1]).scatter_add(
        1, cluster.unsqueeze(-1), torch.ones_like(wide[..., :1])
    )
    return (sums / sizes).to(x.dtype)


def recycled(x: Tensor, scores: Tensor, candidates: int, clusters: int) -> Tensor:
    """The dropped tokens of highest score, merged: [B, n, D], scores [B, n] -> [B, clusters, D].

    -inf as a score keeps a token out, as long as ``candidates`` others remain.
    """
    best = highest(scores, candidates)
    chosen = rows_at(x, best)
    return means(chosen, density_peaks(chosen, clusters), clusters)


def recycled_rows(x: Tensor, scores: Tensor, dropped: Sequence[int]) -> tuple[Tensor, list[int]]:
    """The recycled tokens of each row of a batch; rows that recycle as many go side by side.

    Args:
        x: Hidden states of the vision tokens [B, N, D].
        scores: [B, N]; -inf for those that are kept, and for padding.
        dropped: How many tokens of each row are neither.

    Returns:
        [B, C, D], rows with fewer than C filled up with zeros, and the number of each row.
    """
    sizes = [recycled_counts(count) for count in dropped]
    most = max(clusters for _, clusters in sizes)
    merged = x.new_zeros(x.shape[0], most, x.shape[-1])
    for candidates, clusters in set(sizes):
        if candidates == 0:
            continue
        rows = [row for row, size in enumerate(sizes) if size == (candidates, clusters)]
        if len(rows) == len(sizes):
            return recycled(x, scores, candidates, clusters), [clusters] * len(rows)
        merged[rows, :clusters] = recycled(x[rows], scores[rows], candidates, clusters)
    return merged, [clusters for _, clusters in sizes]
