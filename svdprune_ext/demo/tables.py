"""The demonstration in the terminal."""

from __future__ import annotations

from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from svdprune_ext.demo.measure import PARTS
from svdprune_ext.demo.result import Result
from svdprune_ext.demo.settings import KEPT_OF_PICTURE

# Shares of right answers to compositional questions and in reading, from bench/results/eval/methods.json.
FEW = (
    f"{KEPT_OF_PICTURE} of 144 tokens are few. Over 300 pictures so small a model is right on 50 % of the "
    "questions about things and 37 % of those about a sign's text, on 94 and 94 % with all tokens. "
    "With --keep 32 it is right on 69 and 77 %, with --select pivoted on 64 and 83 %."
)


def show(result: Result, console: Console) -> None:
    """Prints what was kept, how long the parts took, the agreement and the text.

    Args:
        result: The demonstration's result.
        console: Where to print.
    """
    console.print(_heading(result))
    console.print(_kept(result))
    console.print(_times(result))
    console.print(_agreement(result))
    if result.asked:
        console.print(_asked(result))
    console.print(_text(result))


def _heading(result: Result) -> Panel:
    lines = [
        f"Picture     {result.photo_name}",
        f"Model       {result.model_name}",
        f"Runs on     {result.device}, {result.dtype}",
    ]
    if result.asked:
        lines += [
            "",
            "The answers are real. The model is so small that its times say little:",
            "`svdprune demo PHOTO` takes the times of LLaVA-1.5's shape.",
        ]
    if not result.meaningful:
        lines += [
            "",
            "The weights are random, so the text below means nothing.",
            "Real are: the vision tower's shape, the tokens and their pruning,",
            "the times, and the agreement with the oracle.",
        ]
    return Panel(Text("\n".join(lines)), title="svdprune demo", expand=False)


def _kept(result: Result) -> Table:
    leverage, rank = result.leverage_share(), result.agreement.rank
    pivoted = result.settings.pivoted
    of = "of the kept rows" if pivoted else f"at {result.settings.energy_asked:g} of the energy"
    shares = (
        ("tokens", f"{len(result.indices)} of {result.num_tokens}"),
        ("rule", "pivoted: most left outside the span" if pivoted else "topk: highest leverage"),
        ("rank", f"{rank}, {of}"),
        *([] if leverage is None else [("leverage", f"{100 * leverage:.1f} %")]),
        ("energy of the kept rows", f"{100 * result.energy_share():.1f} %"),
        ("energy in their span", f"{100 * result.span_share():.1f} %"),
        *_places(result),
    )
    table = Table(title="What was kept", show_header=False, title_justify="left")
    table.add_row(_map(result), _pairs(shares))
    return table


def _pairs(pairs: tuple[tuple[str, str], ...]) -> Table:
    table = Table.grid(padding=(0, 2))
    for name, value in pairs:
        table.add_row(Text(name, style="bold"), Text(value))
    return table


def _places(result: Result) -> list[tuple[str, str]]:
    cells, half = result.kept_cells(), result.grid / 2
    if not cells:
        return []
    rows, columns = [row for row, _ in cells], [column for _, column in cells]
    corners = [
        sum((row >= half) == low and (column >= half) == right for row, column in cells)
        for low in (False, True)
        for right in (False, True)
    ]
    best = result.scores.argmax().item() - result.first_patch
    top = divmod(int(best), result.grid) if best >= 0 else None
    highest = "most energy added" if result.settings.pivoted else "highest leverage"
    return [
        ("rows, columns", f"{min(rows)}-{max(rows)}, {min(columns)}-{max(columns)} (from 0)"),
        ("upper left, right", f"{corners[0]}, {corners[1]}"),
        ("lower left, right", f"{corners[2]}, {corners[3]}"),
        (highest, f"row {top[0]}, column {top[1]}" if top else "[CLS]"),
    ]


def _map(result: Result) -> Text:
    # Two rows of patches a line, in half blocks.
    kept = set(result.kept_cells())
    glyphs = {(False, False): "·", (True, False): "▀", (False, True): "▄", (True, True): "█"}
    text = Text()
    for row in range(0, result.grid, 2):
        if row:
            text.append("\n")
        for column in range(result.grid):
            glyph = glyphs[(row, column) in kept, (row + 1, column) in kept]
            text.append(glyph, style="dim" if glyph == "·" else "bold green")
    return text


def _times(result: Result) -> Table:
    table = Table(
        title=f"Times (medians of {result.settings.rounds})",
        title_justify="left",
    )
    table.add_column("part")
    for column in (f"all {result.num_tokens}", f"{len(result.indices)} kept", "ratio"):
        table.add_column(column, justify="right")
    for part in PARTS:
        full, pruned = result.full.seconds[part], result.pruned.seconds[part]
        ratio = f"{full / pruned:.2f}x" if full and pruned else "-"
        table.add_row(part, _milliseconds(full), _milliseconds(pruned), ratio)
    table.add_section()
    for name, full, pruned in (
        ("pruning to prefill", result.full.pruned_seconds, result.pruned.pruned_seconds),
        (
            "photograph to first token",
            result.full.first_token_seconds,
            result.pruned.first_token_seconds,
        ),
    ):
        cells = (_milliseconds(full), _milliseconds(pruned), f"{full / pruned:.2f}x")
        table.add_row(name, *cells, style="bold")
    return table


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:,.1f} ms" if seconds else "-"


def _agreement(result: Result) -> Table:
    agreement = result.agreement
    oracle = "the rule in float64 on" if result.settings.pivoted else "a float64 SVD of"
    table = Table(title=f"Against {oracle} the same features", title_justify="left")
    for column in ("", "operator", "oracle or allowed"):
        table.add_column(column)
    table.add_row("rank", str(agreement.rank), str(agreement.oracle_rank))
    table.add_row("kept tokens in common", str(agreement.overlap), str(agreement.keep))
    table.add_row(
        "largest difference of a score",
        f"{agreement.max_score_difference:.1e}",
        f"<= {agreement.score_tolerance:.1e}",
    )
    table.add_row(
        "kept rows unchanged, bit for bit", "yes" if agreement.rows_equal else "no", "yes"
    )
    table.add_section()
    if agreement.agrees:
        table.add_row("verdict", "agrees", style="bold green")
    else:
        table.add_row("verdict", "does NOT agree", "; ".join(agreement.reasons), style="bold red")
    return table


def _asked(result: Result) -> Table:
    few = len(result.indices) == KEPT_OF_PICTURE and not result.settings.pivoted
    table = Table(
        title="One question of each kind",
        title_justify="left",
        caption=FEW if few else None,
        caption_justify="left",
    )
    for column in (
        "question",
        "right answer",
        f"all {result.num_tokens}",
        f"{len(result.indices)} kept",
    ):
        table.add_column(column)
    for each in result.asked:
        answers = [
            Text(printable(given), style="green" if given == each.question.answer else "red")
            for given in (each.full, each.pruned)
        ]
        table.add_row(Text(each.question.text), Text(each.question.answer), *answers)
    return table


def _text(result: Result) -> Panel:
    note = "" if result.meaningful else " (random weights: meaningless)"
    right = result.right_answer
    return Panel(
        Group(
            Text(f"Question: {result.settings.question}", style="bold"),
            Text(f"All {result.num_tokens} tokens: {printable(result.full.text)}"),
            Text(f"{len(result.indices)} kept: {printable(result.pruned.text)}"),
            *([] if right is None else [Text(f"Right answer: {right}")]),
        ),
        title=f"Generated text{note}",
        expand=False,
    )


def printable(text: str) -> str:
    """Text as the terminal can show it: control characters escaped.

    Args:
        text: What a model generated.

    Returns:
        The text on one line.
    """
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text) or "(nothing)"
