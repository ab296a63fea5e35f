"""What do the raters' rows of one layer's attention cost, beside the attention that the layer runs anyway?

``python -m bench.bench_rater [--json FILE]``, on the CPU in float32, at LLaVA-1.5-7B's shape: 576 vision
tokens and 64 of text, 20 of them raters. Alternating rounds; the competitors must agree before they are
timed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

import svdprune_ext
from bench.document import format_seconds, write
from bench.timing import describe_machine, interleaved, median


@dataclass(frozen=True)
class Layer:
    """A prompt in one decoder layer: B x H heads of L tokens and d numbers, N of them vision, R raters."""

    prompts: int = 1
    heads: int = 32
    tokens: int = 640
    width: int = 128
    vision: int = 576
    raters: int = 20
    first_vision: int = 35

    def inputs(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """q, k, raters, visual: the raters are the prompt's last tokens."""
        generator = torch.Generator().manual_seed(0)
        shape = (self.prompts, self.heads, self.tokens, self.width)
        q, k = torch.randn(2, *shape, generator=generator)
        raters = torch.arange(self.tokens - self.raters, self.tokens).expand(self.prompts, -1)
        visual = torch.arange(self.vision).expand(self.prompts, -1) + self.first_vision
        return q, k, raters, visual


def whole_attention(q: Tensor, k: Tensor, raters: Tensor, visual: Tensor) -> Tensor:
    """[B, R, N] out of the attention of all tokens [B, H, L, L], as an eager layer returns it."""
    tokens = q.shape[2]
    hidden = torch.ones(tokens, tokens, dtype=torch.bool).triu(1)
    products = q @ k.mT * q.shape[-1] ** -0.5
    attention = products.masked_fill_(hidden, -torch.inf).softmax(-1).mean(1)
    return attention[:, raters[0]][..., visual[0]]


def rater_rows(q: Tensor, k: Tensor, raters: Tensor, visual: Tensor) -> Tensor:
    """[B, R, N] out of the raters' rows [B, H, R, L] alone."""
    hidden = torch.arange(q.shape[2]) > raters[0][:, None]
    products = q[:, :, raters[0]] @ k.mT * q.shape[-1] ** -0.5
    return products.masked_fill_(hidden, -torch.inf).softmax(-1).mean(1)[..., visual[0]]


def candidates(layer: Layer) -> dict[str, Callable[[], Tensor]]:
    """What is timed, by name; those that return the raters' attention have been compared."""
    q, k, *_ = inputs = layer.inputs()
    scored = {
        "rater_scores": lambda: svdprune_ext.rater_scores(*inputs).attention,
        "rater rows in PyTorch": lambda: rater_rows(*inputs),
        "whole attention in PyTorch": lambda: whole_attention(*inputs),
    }
    expected = scored["rater_scores"]()
    for run in scored.values():
        torch.testing.assert_close(run(), expected, rtol=1e-4, atol=1e-7)
    beside = lambda: scaled_dot_product_attention(q, k, k, is_causal=True)  # noqa: E731
    return {**scored, "the layer's own fused attention": beside}


def table(durations: Mapping[str, list[float]]) -> str:
    """Medians, and ratios to the operator, as Markdown."""
    ours = median(durations["rater_scores"])
    lines = ["| | time | ratio |", "|---|---:|---:|"]
    for name, times in durations.items():
        lines.append(f"| {name} | {format_seconds(median(times))} | {median(times) / ours:.2f} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(prog="bench.bench_rater", description=__doc__)
    parser.add_argument("--json", type=Path, help="write machine, shape and durations there")
    parser.add_argument("--seconds", type=float, default=5.0, help="that each competitor may take")
    options = parser.parse_args(arguments)
    layer = Layer()
    durations = interleaved(candidates(layer), budget=options.seconds)
    print(table(durations))
    if options.json is not None:
        result: dict[str, Any] = {"machine": describe_machine(), "layer": asdict(layer)}
        write({**result, "seconds": durations}, options.json)


if __name__ == "__main__":
    main()
