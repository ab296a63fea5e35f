"""Tables of a GPU run: from the rows of ``bench_gpu`` and ``bench_prefill`` to Markdown."""

from __future__ import annotations

from typing import Any

from bench.document import format_seconds, markdown_table
from bench.goals_document import ratio_verdict, verdict
from bench.gpu_goals import GOALS, GpuGoal
from bench.prefill_document import tokens_cell

UNMEASURED = (
    "Nobody has measured the CUDA backend's speed yet. `make gpu-bench`, on a machine with a GPU, writes\n"
    "`bench-out/gpu/gpu.json`; `python -m bench.report` shows it here once it is committed as\n"
    "`bench/results/<gpu>/<name>.json`."
)
MICRO_HEADER = (
    "images x tokens x width",
    "dtype",
    "rank",
    "steps",
    "svdprune",
    "its bytes/s",
    "its FLOP/s",
    "as a CUDA graph",
    'solver "eigh"',
    'select "pivoted"',
    "its CUDA graph",
    "Gram + eigh",
    "CuPy eigh",
    "SVD",
)
OVERVIEW_HEADER = tuple(
    name
    for name in MICRO_HEADER
    if name not in ("rank", "steps", "its bytes/s", "its FLOP/s", 'solver "eigh"')
)
KERNELS_HEADER = ("images x tokens x width", "dtype", "operator", "together", "kernels")
GOALS_HEADER = ("input", "what", "goal", "reached", "if missed, why")
PREFILL_HEADER = (
    "images",
    "vision tokens",
    "vision tower",
    "pruning",
    "projector",
    "prefill",
    "total",
    "as a CUDA graph",
    "FLOPs saved, language model",
    "with vision",
    "peak memory",
)
EIGENSOLVERS = ("XsyevBatched", "Xsyevd", "torch.linalg.eigh")
_PEERS = ("gram_eigh", "cupy_eigh", "svd")


def micro_cells(row: dict[str, Any]) -> list[str]:
    """Cells of one line under ``MICRO_HEADER``; peers with their ratio to the operator, both eager."""
    ours = row["eager"].get("svdprune")
    rank = row.get("rank")
    return [
        _shape(row),
        row["dtype"],
        "-" if rank is None else f"{rank:.0f}",
        _steps(row),
        format_seconds(ours),
        format_rate(row["bytes"], ours, "B/s"),
        format_rate(row["flops"], ours, "FLOP/s"),
        format_seconds(row["graph"].get("svdprune")),
        _compared(row["eager"].get("svdprune_eigh"), ours),
        _compared(row["eager"].get("svdprune_pivoted"), ours),
        format_seconds(row["graph"].get("svdprune_pivoted")),
        *(_compared(row["eager"].get(peer), ours) for peer in _PEERS),
    ]


def overview_cells(row: dict[str, Any]) -> list[str]:
    """Those of them that stand under ``OVERVIEW_HEADER``."""
    cells = dict(zip(MICRO_HEADER, micro_cells(row), strict=True))
    return [cells[name] for name in OVERVIEW_HEADER]


def kernel_cells(row: dict[str, Any]) -> list[str]:
    """Cells of one line: input, operator, all kernels together, those that took most of it in their order."""
    kernels: dict[str, float] = row["kernels"]
    total = sum(kernels.values())
    each = (f"{name} {format_seconds(t)}" for name, t in kernels.items() if t > total / 100)
    return [_shape(row), row["dtype"], row["operator"], format_seconds(total), ", ".join(each)]


def goal_cells(goal: GpuGoal, value: float) -> list[str]:
    """Cells of one line under ``GOALS_HEADER``, of a goal and what was reached."""
    if goal.seconds is not None:
        is_met = value <= goal.seconds
        limit = f"at most {format_seconds(goal.seconds)}"
        reached = verdict(is_met, _told_apart(value, goal.seconds))
    else:
        is_met = value >= goal.ratio
        limit, reached = f"{goal.ratio:g}x", ratio_verdict(value, goal.ratio)
    return [_shape(goal.case), goal.what, limit, reached, "" if is_met else goal.reason]


def _told_apart(seconds: float, goal: float) -> str:
    """As many digits as it takes to tell on which side of the goal it lies, three at least."""
    for digits in range(3, 7):
        text = format_seconds(seconds, digits)
        if text != format_seconds(goal):
            break
    return text


def eigensolver_cells(row: dict[str, Any]) -> list[str]:
    """Cells of one line: side, dtype, each eigensolver with its ratio to the first, which "eigh" calls."""
    ours = row["eager"].get(EIGENSOLVERS[0])
    others = (_compared(row["eager"].get(name), ours) for name in EIGENSOLVERS[1:])
    return [str(row["side"]), row["dtype"], format_seconds(ours), *others]


def _steps(row: dict[str, Any]) -> str:
    # Of "auto", or in older results of "tridiag", where it ran: else "eigh" stood in, or nothing is known.
    found = row.get("auto") or row.get("tridiag", {})
    units = {"tridiag": "", "purify": " products"}
    ran = found.get("ran")
    return f"{found['steps']:.0f}{units[ran]}" if ran in units else "-"


def prefill_cells(row: dict[str, Any]) -> list[str]:
    """Cells of one line under ``PREFILL_HEADER``."""
    seconds, flops, memory = row["seconds"], row["flops"], row["memory"]
    is_before = row["keep"] != row["vision_tokens"] and not row.get("layers")
    return [
        str(row["images"]),
        tokens_cell(row),
        format_seconds(seconds["vision tower"]),
        format_seconds(seconds["pruning"]) if is_before else "-",
        *(format_seconds(seconds[part]) for part in ("projector", "prefill", "total")),
        format_seconds(row.get("graph")),
        f"{100 * flops['saved_language_model']:.1f}%",
        f"{100 * flops['saved_with_vision']:.1f}%",
        "-" if memory is None else f"{memory / 2**30:.2f} GiB",
    ]


def format_rate(amount: float, seconds: float | None, unit: str) -> str:
    """Amount per second in three digits with an SI prefix; a dash where seconds are None."""
    if not seconds:
        return "-"
    rate = amount / seconds
    for prefix, scale in (("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if rate >= scale:
            return f"{rate / scale:.3g} {prefix}{unit}"
    return f"{rate:.3g} {unit}"


def machine_line(machine: dict[str, Any]) -> str:
    """One line: what the numbers hold for."""
    return (
        f"{machine['gpu']}, driver {machine['driver']}; torch {machine['torch']}; svdprune_ext "
        f"{machine['svdprune']} ({machine['revision']}); {machine['date']}"
    )


def ceilings_line(ceilings: dict[str, float]) -> str:
    """One line: what the device reached in the same run."""
    return (
        f"Reached in the same run: copying {format_rate(ceilings['copy'], 1, 'B/s')}; matrix products "
        f"{format_rate(ceilings['bfloat16'], 1, 'FLOP/s')} in bfloat16, "
        f"{format_rate(ceilings['float32'], 1, 'FLOP/s')} in float32."
    )


def overview(result: dict[str, Any]) -> str:
    """The Markdown of one run in short: machine, benchmarks, goals; what is missing is left out."""
    blocks = [machine_line(result["machine"])]
    if result.get("micro"):
        blocks.append(
            markdown_table(OVERVIEW_HEADER, [overview_cells(row) for row in result["micro"]])
        )
    return "\n\n".join([*blocks, *_goals(result)])


def details(result: dict[str, Any]) -> str:
    """The Markdown of one run's operators: machine, ceilings, benchmarks, kernels, eigensolvers."""
    blocks = [machine_line(result["machine"])]
    if result.get("micro"):
        if result.get("ceilings"):
            blocks.append(ceilings_line(result["ceilings"]))
        blocks.append(markdown_table(MICRO_HEADER, [micro_cells(row) for row in result["micro"]]))
    if result.get("kernels"):
        blocks.append(
            "Kernels of a warm call, those of 1 % of it or more, in the order of their launches:"
        )
        blocks.append(
            markdown_table(KERNELS_HEADER, [kernel_cells(row) for row in result["kernels"]])
        )
    if result.get("eigensolvers"):
        blocks.append('The spectrum stage of solver "eigh" alone, for one image, by eigensolver:')
        cells = [eigensolver_cells(row) for row in result["eigensolvers"]]
        blocks.append(markdown_table(("side of the Gram matrix", "dtype", *EIGENSOLVERS), cells))
    return "\n\n".join(blocks)


def prefill(result: dict[str, Any]) -> str:
    """The Markdown of one run's prefill."""
    return "\n\n".join([machine_line(result["machine"]), *_prefill(result)])


def tables(result: dict[str, Any]) -> str:
    """The Markdown of one run, whole; what is missing is left out."""
    if result["machine"]["gpu"] is None:
        return "torch saw no GPU: nothing was measured."
    return "\n\n".join([details(result), *_goals(result), *_prefill(result)])


def _goals(result: dict[str, Any]) -> list[str]:
    reached = [(goal, value) for goal in GOALS if (value := goal.value(result)) is not None]
    if not reached:
        return []
    return [
        "The goals in bfloat16, for one Hopper GPU, and what that run reached:",
        markdown_table(GOALS_HEADER, [goal_cells(goal, value) for goal, value in reached]),
    ]


def _prefill(result: dict[str, Any]) -> list[str]:
    if not result.get("prefill"):
        return []
    return [
        "Prefill of a LLaVA-1.5-7B with random weights in bfloat16, "
        f"{result['prefill'][0]['text_tokens']} text tokens and one image a prompt:",
        markdown_table(PREFILL_HEADER, [prefill_cells(row) for row in result["prefill"]]),
    ]


def reasons(result: dict[str, Any]) -> list[str]:
    """Lines that say what was not measured, and why; one a competitor and reason."""
    seen: dict[str, list[str]] = {}
    for row in result.get("micro", []):
        where = f"{_shape(row)} {row['dtype']}"
        for name, reason in row["skipped"].items():
            seen.setdefault(f"{name}: {reason}", []).append(where)
    for row in result.get("prefill", []):
        if reason := row.get("not_captured"):
            where = f"{row['images']} images, {row['keep']} tokens"
            seen.setdefault(f"prefill as a CUDA graph: {reason}", []).append(where)
    return [
        f"{what} ({places[0]}{f' and {len(places) - 1} more' if len(places) > 1 else ''})"
        for what, places in seen.items()
    ]


def _shape(row: dict[str, Any]) -> str:
    size = f"{row['images']} x {row['tokens']} x {row['width']}"
    return size if row["spectrum"] == "photograph" else f"{size}, {row['spectrum']}"


def _compared(seconds: float | None, ours: float | None) -> str:
    ratio = f" ({seconds / ours:.1f}x)" if seconds and ours else ""
    return format_seconds(seconds) + ratio
