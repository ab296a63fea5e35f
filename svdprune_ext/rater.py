"""How much attention the raters of a prompt pay to its vision tokens: of all heads together, or of each.

The rows of the attention that text-guided pruning needs, and no others: SparseVLM's raters (arXiv 2410.04417,
section 3), FastV's last token. They are computed from q and k of a layer, beside the attention that the model
runs anyway.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from svdprune_ext._register import check_devices, saved_as
from svdprune_ext._transforms import register_autograd, without_gradient


@saved_as("svdprune_ext.RaterScores")
class RaterScores(NamedTuple):
    """Result of ``rater_scores``; float32, or float64 for float64 q.

    Attributes:
        scores: ``attention``'s mean over the raters [B, N]; 0 at padded places of ``visual``.
        attention: Mean over the heads of the attention that each rater pays to each vision token
            [B, R, N]; zero rows and columns at padded places.
        head_mass: Share of each head's attention that goes from the raters to the vision tokens, mean over
            the raters [B, H]; 0 for a head of weight 0.
    """

    scores: Tensor
    attention: Tensor
    head_mass: Tensor


def rater_scores(
    q: Tensor,
    k: Tensor,
    raters: Tensor,
    visual: Tensor,
    *,
    mask: Tensor | None = None,
    causal: bool = True,
    scale: float | None = None,
    head_weights: Tensor | None = None,
) -> RaterScores:
    """Post-softmax attention of the raters to the vision tokens, averaged over heads and raters.

    ``softmax(scale * q k^T)`` runs over all keys that a rater sees; of its rows only the raters', and of
    those only the vision tokens' columns are kept. No other row is computed, and no row of a single head is
    stored for all heads at once. Shapes do not depend on the data, and nothing waits for the device.

    Not differentiable: the scores choose tokens.

    Args:
        q: Queries after rotary embedding [B, H, L, d]; float64, float32, float16 or bfloat16; any strides.
        k: Keys, as they are in the cache [B, Hkv, S, d], S >= L for a causal layer; q's dtype. H is a
            multiple of Hkv, and head h reads key head ``h // (H / Hkv)``.
        raters: Positions of the raters among the L queries [B, R], int64, in any order; -1 is padding.
        visual: Positions of the vision tokens among the S keys [B, N], int64, in any order; -1 is padding.
        mask: Which keys are seen, bool: [B, S] for padding, or [B or 1, H or 1, L, S] as
            ``scaled_dot_product_attention`` takes it.
        causal: Query i sees keys 0 to ``i + S - L``, as far as the mask lets it.
        scale: Factor of the products; ``1 / sqrt(d)`` by default.
        head_weights: Weights of the heads [B, H], float32, in place of the mean's ``1 / H``. A head of
            weight 0 is not computed.

    Returns:
        scores [B, N], attention [B, R, N], head_mass [B, H]. A rater that sees no key pays no attention, but
        counts in the means; a prompt without raters has zero scores.

    Raises:
        ValueError: An argument has a wrong shape or dtype, or a position lies outside [-1, L) or [-1, S)
            (CPU; on CUDA such a position is padding).

    Numerics: products and sums in float32 (float64 for float64 q). Against float64 on the same input an entry
    differs by at most ``2 eps (8 + |scale| max |q_i| max |k_j|)`` of itself, eps being 1.2e-7 in float32.
    NaN in a rater's query, or in a key that it sees, makes its row NaN. Deterministic, for any number of
    threads.

    Source: SparseVLM, arXiv 2410.04417, sections 3.1 and 3.2; FastV, arXiv 2403.06764, section 4.1.
    """
    scores, attention, head_mass = torch.ops.svdprune.rater_scores(
        q,
        k,
        raters,
        visual,
        mask,
        head_weights,
        causal=causal,
        scale=scale,
    )
    return RaterScores(scores, attention, head_mass)


def rater_scores_by_head(
    q: Tensor,
    k: Tensor,
    raters: Tensor,
    visual: Tensor,
    *,
    mask: Tensor | None = None,
    causal: bool = True,
    scale: float | None = None,
    divisor: Tensor | None = None,
) -> Tensor:
    """``rater_scores`` of each head: its attention to the vision tokens, mean over the raters.

    For methods that choose among heads, or weigh attention before they sum it. A row of a head is added up as
    soon as it is computed; [B, H, R, N] is never held.

    Args:
        q: As in ``rater_scores``, like all that is not told here [B, H, L, d].
        k: [B, Hkv, S, d].
        raters: [B, R].
        visual: [B, N].
        mask: [B, S] or [B or 1, H or 1, L, S].
        causal: Query i sees keys 0 to ``i + S - L``.
        scale: ``1 / sqrt(d)`` by default.
        divisor: What the attention of rater r to vision token n is divided by before the mean over raters is
            taken [B or 1, R, N], in the result's dtype. Where no attention is paid, and at padding, it does
            not matter.

    Returns:
        [B, H, N]; float32, or float64 for float64 q; 0 at padded places of ``visual``, and without raters.

    Raises:
        ValueError: As ``rater_scores``; or ``divisor`` has a wrong shape or dtype.

    Numerics: As ``rater_scores``, a term of the mean over raters taking the place of an entry.

    Source: SparseVLM+, arXiv 2410.04417 (version 2), sections 4.2 and 4.3.
    """
    scores: Tensor = torch.ops.svdprune.rater_scores_by_head(
        q,
        k,
        raters,
        visual,
        mask,
        divisor,
        causal=causal,
        scale=scale,
    )
    return scores


def _sizes(op: str, q: Tensor, raters: Tensor, visual: Tensor) -> tuple[Any, ...]:
    """B, H, R, N, once the ranks that the fake kernels count on are checked, and the scores' dtype."""
    for name, tensor, dims, shape in (
        ("q", q, 4, "[B, H, L, d]"),
        ("raters", raters, 2, "[B, R]"),
        ("visual", visual, 2, "[B, N]"),
    ):
        torch._check_value(
            tensor.dim() == dims,
            lambda name=name, tensor=tensor, shape=shape: (
                f"svdprune::{op}: {name} must be {shape}, got shape {list(tensor.shape)}"
            ),
        )
    dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    return *q.shape[:2], raters.shape[1], visual.shape[1], dtype


@torch.library.register_fake("svdprune::rater_scores")
def _(
    q: Tensor,
    k: Tensor,
    raters: Tensor,
    visual: Tensor,
    mask: Tensor | None = None,
    head_weights: Tensor | None = None,
    *,
    causal: bool = True,
    scale: float | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    op = "rater_scores"
    prompts, heads, rows, columns, dtype = _sizes(op, q, raters, visual)
    check_devices(
        op, "q", q, k=k, raters=raters, visual=visual, mask=mask, head_weights=head_weights
    )
    return (
        q.new_empty((prompts, columns), dtype=dtype),
        q.new_empty((prompts, rows, columns), dtype=dtype),
        q.new_empty((prompts, heads), dtype=dtype),
    )


@torch.library.register_fake("svdprune::rater_scores_by_head")
def _(
    q: Tensor,
    k: Tensor,
    raters: Tensor,
    visual: Tensor,
    mask: Tensor | None = None,
    divisor: Tensor | None = None,
    *,
    causal: bool = True,
    scale: float | None = None,
) -> Tensor:
    op = "rater_scores_by_head"
    prompts, heads, _, columns, dtype = _sizes(op, q, raters, visual)
    check_devices(op, "q", q, k=k, raters=raters, visual=visual, mask=mask, divisor=divisor)
    return q.new_empty((prompts, heads, columns), dtype=dtype)


for _op in ("rater_scores", "rater_scores_by_head"):
    register_autograd(_op, without_gradient)
