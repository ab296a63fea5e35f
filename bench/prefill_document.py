"""Table of the prefill on a CPU: from the result of ``bench_prefill`` to Markdown."""

from __future__ import annotations

from typing import Any

from bench.document import format_seconds, machine_line, markdown_table

BY_HAND = "the same by hand"
HEADER = (
    "vision tokens",
    "vision tower",
    "pruning",
    "projector",
    "prefill",
    BY_HAND,
    "faster",
    "total",
    "pruning's share of the unpruned prefill",
    "FLOPs saved",
)


def table(result: dict[str, Any]) -> str:
    """The Markdown of one result: machine, model, a line for each budget."""
    model, rows = result["model"], result["rows"]
    unpruned = next(row for row in rows if row["keep"] == row["vision_tokens"])
    # Results from before this was measured lack it.
    header = [name for name in HEADER if name != BY_HAND or "by_hand" in unpruned]
    rows_shown = ([_cells(row, unpruned)[name] for name in header] for row in rows)
    lines = [
        f"{machine_line(result['machine'])}. Llama with {model['text_layers']} layers of "
        f"{model['text_width']}, {model['vision_layers']} vision layers of {model['vision_width']}, float32, "
        f"random weights; {unpruned['text_tokens']} text tokens.",
        "",
        markdown_table(header, rows_shown),
        *(["", _BY_HAND] if BY_HAND in header else []),
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


def _cells(row: dict[str, Any], unpruned: dict[str, Any]) -> dict[str, str]:
    seconds, base = row["seconds"], unpruned["seconds"]["prefill"]
    is_base = row is unpruned
    is_before = not is_base and not row.get(
        "layers"
    )  # a method within the decoder is part of its prefill
    cells = (
        tokens_cell(row),
        format_seconds(seconds["vision tower"]),
        format_seconds(seconds["pruning"]) if is_before else "-",
        format_seconds(seconds["projector"]),
        format_seconds(seconds["prefill"]),
        _by_hand(row, unpruned),
        "-" if is_base else f"{base / seconds['prefill']:.1f}x",
        format_seconds(seconds["total"]),
        f"{100 * seconds['pruning'] / base:.2f}%" if is_before else "-",
        f"{100 * row['flops']['saved_language_model']:.1f}%",
    )
    return dict(zip(HEADER, cells, strict=True))


def _by_hand(row: dict[str, Any], unpruned: dict[str, Any]) -> str:
    seconds = row.get("by_hand")
    if seconds is None:
        return "-"
    faster = "" if row is unpruned else f" ({unpruned['by_hand'] / seconds:.1f}x)"
    return format_seconds(seconds) + faster


_BY_HAND = (
    "By hand: the unpatched language model is handed as many embeddings. A prefill reads every weight "
    "however few its tokens, which FLOPs do not count; what more the pruned prefill takes is the patch's."
)


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
