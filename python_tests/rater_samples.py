"""The inputs that the tests of ``rater_scores`` share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from samples import gaussian
from torch import Tensor


@dataclass(frozen=True)
class RaterSample:
    """A prompt of L queries at the end of S keys; ``shape`` is (B, H, Hkv, L, S, d, R, N)."""

    name: str
    shape: tuple[int, ...] = (2, 4, 2, 9, 12, 8, 5, 7)
    dtype: torch.dtype = torch.float32
    amplitude: float = 1.0
    mask: str | None = None
    raters: str = "random"
    visual: str = "random"
    weights: list[float] | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def make(self) -> tuple[tuple[Tensor, ...], dict[str, Any]]:
        """q, k, raters, visual, and the other arguments by name."""
        b, h, h_kv, queries, keys, d, r, n = self.shape
        q = (self.amplitude * gaussian(b, h, queries, d, seed=1)).to(self.dtype)
        k = (self.amplitude * gaussian(b, h_kv, keys, d, seed=2)).to(self.dtype)
        options = dict(self.options)
        if self.mask is not None:
            options["mask"] = _mask(self.mask, b, h, queries, keys)
        if self.weights is not None:
            options["head_weights"] = torch.tensor(self.weights).repeat(b, 1)
        return (
            q,
            k,
            _positions(self.raters, b, r, queries),
            _positions(self.visual, b, n, keys),
        ), options

    def __str__(self) -> str:
        return self.name


def _positions(kind: str, b: int, count: int, limit: int) -> Tensor:
    """[b, count]: in any order with gaps, the last ones, padding alone, or neighbours after the first few."""
    if kind == "none" or limit == 0:
        return torch.full((b, count), -1)
    if kind == "last":
        return torch.arange(limit - count, limit).repeat(b, 1)
    if kind == "runs":
        positions = (torch.arange(count).repeat(b, 1) + limit // 5) % limit
        positions[:, count // 2] = -1
        positions[-1, -2:] = -1
        return positions
    generator = torch.Generator().manual_seed(count)
    return torch.randint(-1, limit, (b, count), generator=generator)


def _mask(kind: str, b: int, h: int, queries: int, keys: int) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    if kind == "padded_left":
        return torch.arange(keys) >= torch.arange(b)[:, None] * 3
    if kind == "rows_hidden":  # query 0 and every third one after it see nothing
        rows = torch.arange(queries) % 3 > 0
        return rows[None, None, :, None].expand(b, 1, queries, keys)
    shape = {"shared": (1, 1), "prompts": (b, 1), "heads": (b, h)}[kind]
    return torch.rand(*shape, queries, keys, generator=generator) < 0.6


def rater_samples() -> list[RaterSample]:
    return [
        RaterSample("plain"),
        RaterSample("no_cache", (2, 4, 2, 12, 12, 8, 5, 7)),
        RaterSample("not_causal", options={"causal": False}),
        RaterSample("more_queries_than_keys", (1, 2, 2, 9, 4, 8, 5, 3), options={"causal": False}),
        RaterSample("scale", options={"scale": -0.3}),
        RaterSample("neighbours", (2, 4, 4, 40, 44, 16, 9, 20), raters="last", visual="runs"),
        RaterSample("heads_share_a_key_head", (2, 6, 1, 20, 20, 16, 30, 12)),
        RaterSample("odd_sizes", (3, 5, 5, 17, 23, 7, 11, 13)),
        RaterSample("many_raters", (1, 7, 1, 150, 150, 24, 150, 90), raters="last"),
        RaterSample("many_keys", (1, 2, 2, 30, 700, 16, 5, 600), visual="runs"),
        RaterSample("llava", (1, 4, 4, 640, 640, 128, 20, 576), raters="last", visual="runs"),
        # Masks.
        RaterSample("padded_left", mask="padded_left"),
        RaterSample("mask_for_all", mask="shared"),
        RaterSample("mask_of_prompts", mask="prompts", options={"causal": False}),
        RaterSample("mask_of_heads", mask="heads"),
        RaterSample("rows_hidden", mask="rows_hidden"),
        # Nothing to do, or hardly anything.
        RaterSample("one_of_everything", (1, 1, 1, 1, 1, 1, 1, 1)),
        RaterSample("last_token", (2, 4, 2, 9, 9, 8, 1, 7), raters="last"),
        RaterSample("padding_alone", raters="none"),
        RaterSample("no_raters", (2, 4, 2, 9, 12, 8, 0, 7)),
        RaterSample("visual_padding_alone", visual="none"),
        RaterSample("no_visual", (2, 4, 2, 9, 12, 8, 5, 0)),
        RaterSample("no_queries", (2, 4, 2, 0, 12, 8, 5, 7)),
        RaterSample("no_keys", (2, 4, 2, 0, 0, 8, 5, 7)),
        RaterSample("no_prompts", (0, 4, 2, 9, 12, 8, 5, 7)),
        # Weights of the heads.
        RaterSample("weights", weights=[0.5, 0.1, 0.3, 0.1]),
        RaterSample("some_heads", weights=[0.5, 0.0, 0.0, 0.5]),
        RaterSample("a_key_head_unused", weights=[0.0, 0.0, 0.25, 0.75]),
        RaterSample("negative_weight", weights=[1.0, -0.5, 0.25, 0.25]),
        # Number types and sizes.
        RaterSample("float64", (2, 6, 2, 9, 12, 8, 5, 7), dtype=torch.float64),
        RaterSample("float16", (2, 4, 2, 40, 44, 64, 9, 20), dtype=torch.float16),
        RaterSample("bfloat16", (2, 4, 2, 40, 44, 64, 9, 20), dtype=torch.bfloat16),
        RaterSample("big_logits", (2, 4, 2, 40, 44, 64, 9, 20), amplitude=6.0),
        RaterSample(
            "huge_logits", (2, 4, 2, 40, 44, 64, 9, 20), dtype=torch.float16, amplitude=60.0
        ),
        RaterSample("zeros", amplitude=0.0),
    ]


def rater_sample(name: str) -> RaterSample:
    return next(s for s in rater_samples() if s.name == name)


def error_bound(q: Tensor, k: Tensor, scale: float | None) -> float:
    """What ``rater_scores`` promises: rounding of a product, which the exponential makes relative."""
    eps = torch.finfo(torch.float64 if q.dtype == torch.float64 else torch.float32).eps
    longest = [x.double().norm(dim=-1).max().item() if x.numel() else 0 for x in (q, k)]
    scale = q.shape[-1] ** -0.5 if scale is None else abs(scale)
    return 2 * eps * (8 + scale * longest[0] * longest[1])
