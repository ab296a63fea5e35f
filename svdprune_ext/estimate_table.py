"""The command line's side of ``estimate``: sizes read, costs shown."""

from __future__ import annotations

from rich.box import SIMPLE
from rich.table import Table

from svdprune_ext.estimate import Cost


def height_and_width(text: str | None) -> tuple[int, int] | None:
    """Reads ``--image-size``.

    Raises:
        ValueError: It is not HEIGHTxWIDTH.
    """
    if text is None:
        return None
    sides = text.lower().split("x")
    if len(sides) != 2 or not all(side.isdecimal() for side in sides):
        raise ValueError(f"--image-size: must be HEIGHTxWIDTH, as 672x1008, got {text}")
    return int(sides[0]), int(sides[1])


def table_of(model: str, costs: list[Cost]) -> Table:
    """One line for each budget; the first is unpruned."""
    table = Table(box=SIMPLE, show_edge=False, padding=0, title_justify="left")
    table.title = f"{model}: TFLOPs up to the first new token"
    names = ("tokens", "vision", "projector", "prefill", "less", "all", "less", "share of\nprefill")
    for name in (*names, "KV cache\nin MiB"):
        table.add_column(name, justify="right")
    before = costs[0]
    for cost in costs:
        table.add_row(
            str(cost.vision_tokens),
            *(f"{flops / 1e12:.3f}" for flops in (cost.vision, cost.projector, cost.prefill)),
            f"{100 * (1 - cost.prefill / before.prefill):.1f} %",
            f"{cost.total / 1e12:.3f}",
            f"{100 * (1 - cost.total / before.total):.1f} %",
            f"{100 * cost.prefill_share:.1f} %",
            f"{cost.kv_cache / 2**20:.1f}",
        )
    return table
