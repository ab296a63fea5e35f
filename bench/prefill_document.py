"""Table of the prefill on a CPU: from the result of ``bench_prefill`` to Markdown."""

from __future__ import annotations

from typing import Any

from bench.document import format_seconds, machine_line

HEADER = (
    "vision tokens",
    "vision tower",
    "pruning",
    "projector",
    "prefill",
    "faster",
    "total",
    "pruning's share of the unpruned prefill",
    "FLOPs saved",
)


def table(result: dict[str, Any]) -> str:
    """The Markdown of one result: machine, model, a line for each budget."""
    model, rows = result["model"], result["rows"]
    unpruned = next(row for row in rows if row["keep"] == row["vision_tokens"])
    lines = [
        f"{machine_line(result['machine'])}. Llama with {model['text_layers']} layers of "
        f"{model['text_width']}, {model['vision_layers']} vision layers of {model['vision_width']}, float32, "
        f"random weights; {unpruned['text_tokens']} text tokens.",
        "",
        f"| {' | '.join(HEADER)} |",
        f"| {' | '.join(['---:'] * len(HEADER))} |",
        *(f"| {' | '.join(_cells(row, unpruned))} |" for row in rows),
        *(["", _patch(result["patch"])] if "patch" in result else []),
    ]
    return "\n".join(lines)


def tokens_cell(row: dict[str, Any]) -> str:
    """How many vision tokens, by which method."""
    if row["keep"] == row["vision_tokens"]:
        return f"all {row['keep']}"
    if not row.get("layers"):
        return str(row["keep"])
    average = sum(row["layers"]) / len(row["layers"])
    return f"{row['method']} at {row['keep']}: {average:.0f} on average"


def _cells(row: dict[str, Any], unpruned: dict[str, Any]) -> list[str]:
    seconds, base = row["seconds"], unpruned["seconds"]["prefill"]
    is_base = row is unpruned
    is_before = not is_base and not row.get(
        "layers"
    )  # a method within the decoder is part of its prefill
    return [
        tokens_cell(row),
        format_seconds(seconds["vision tower"]),
        format_seconds(seconds["pruning"]) if is_before else "-",
        format_seconds(seconds["projector"]),
        format_seconds(seconds["prefill"]),
        "-" if is_base else f"{base / seconds['prefill']:.1f}x",
        format_seconds(seconds["total"]),
        f"{100 * seconds['pruning'] / base:.2f}%" if is_before else "-",
        f"{100 * row['flops']['saved_language_model']:.1f}%",
    ]


def _patch(patch: dict[str, Any]) -> str:
    """What ``bench.patch_overhead`` measured, in words."""
    low, middle, high = (f"{100 * (ratio - 1):+.1f}%" for ratio in patch["ratios"])
    share = 100 * patch["hooks"] / patch["unpatched"]
    return (
        f'The patch itself, without the operator (method "uniform", {patch["rounds"]} rounds): at '
        f"{patch['keep']} tokens its hooks take {format_seconds(patch['hooks'])}, {share:.2f}% of the "
        f"unpruned forward pass of {format_seconds(patch['unpatched'])}. With all tokens kept the pass "
        f"takes {middle} (quartiles {low}, {high})."
    )
