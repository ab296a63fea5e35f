"""How do the solvers do where the spectrum hurts: how fast, how exact, and after how many steps?

``python -m bench.bench_solvers [--quick] [--json FILE]`` in the source folder: the solvers "tridiag" and
"eigh" beside Gram matrix and ``torch.linalg.eigh``, and ``torch.linalg.svd``, in alternating rounds of one
process, on the inputs of ``bench.hard_suite`` and ``bench.photographs`` at several variances, against the
float64 oracle. Beside FILE goes a plot.
``python -m bench.report`` shows ``bench/results/cpu/solvers*.json`` in the README.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from bench.document import STAGES, machine_line, write
from bench.hard_suite import Input, Oracle, suite
from bench.photographs import photographs
from bench.solvers_document import HEADER, KEEP, SHOWN, cells, plot, summary
from bench.timing import describe_machine, interleaved, median
from svdprune_ext._load import load_native
from svdprune_ext.ops import diagnose, prune
from svdprune_ext.reference import gram_eigh_prune, oracle_topk, reference_prune

VARIANCES = (0.8, 0.9, 0.95, 0.99)
UNDEFINED = 0.5  # a score allowed to be this far off has no meaning
_TIE = 1e-12  # between scores that are equal but for the oracle's own rounding

CANDIDATES: dict[str, Callable[[Tensor, int, float], tuple[Tensor, ...]]] = {
    "tridiag": lambda x, keep, variance: prune(x, keep, variance=variance, solver="tridiag"),
    "eigh": lambda x, keep, variance: prune(x, keep, variance=variance, solver="eigh"),
    "gram_eigh": gram_eigh_prune,
    "svd": reference_prune,
}


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: Command line; the process's own by default.

    Returns:
        Exit status: 0.
    """
    parser = argparse.ArgumentParser(prog="bench.bench_solvers", description=__doc__)
    parser.add_argument("--quick", action="store_true", help=f"few rounds, variance {SHOWN} only")
    parser.add_argument("--json", type=Path, help="write machine and rows there, a plot beside it")
    options = parser.parse_args(arguments)

    console = Console(markup=False, highlight=False)
    if not console.is_terminal:
        console.width = 180
    inputs = track([*suite(), *photographs()], "Solving", console=console, transient=True)
    least: dict[str, Any] = {"variances": (SHOWN,), "budget": 0.05, "min_rounds": 2}
    rows = study(inputs, **(least if options.quick else {}))
    result = {"machine": describe_machine(), "solvers": rows}
    _print(result, console)
    if options.json is not None:
        write(result, options.json)
        plot(result, options.json.with_suffix(".png"))
        console.print(f"Written: {options.json} and {options.json.with_suffix('.png')}")
    return 0


def study(
    inputs: Iterable[Input],
    variances: Iterable[float] = VARIANCES,
    budget: float = 0.25,
    min_rounds: int = 3,
) -> list[dict[str, Any]]:
    """Measures every input at every variance.

    Args:
        inputs: The inputs.
        variances: Shares of the energy to ask for.
        budget: Seconds that a candidate may be timed for on one row.
        min_rounds: Rounds that even the slowest gets.

    Returns:
        A row each, as JSON has it: how "tridiag" went about it in ``solver``, ``steps`` of ``size`` and
        ``refined`` (solved again in float64); medians in ``seconds``, what was found in ``ranks``,
        ``errors``, ``allowed`` (how large that error may be) and ``common``, all by candidate; and medians
        of its ``stages``. An error and what is allowed are None where the cut is degenerate, and scores
        have no meaning; the stages are where "eigh" took over.
    """
    rows = []
    for item in inputs:
        x = item.features()
        oracle = Oracle(x)
        for variance in variances:
            about = {"features": item.name, "tokens": item.tokens, "width": item.width}
            rows.append(about | _measure(x, oracle, variance, budget, min_rounds))
    return rows


def _measure(
    x: Tensor, oracle: Oracle, variance: float, budget: float, min_rounds: int
) -> dict[str, Any]:
    keep = min(KEEP, len(x))
    batch = x[None]
    found = diagnose(x, variance=variance, solver="tridiag")
    results = {name: run(batch, keep, variance) for name, run in CANDIDATES.items()}
    durations = interleaved(
        {
            name: lambda run=run: run(batch, keep, variance)  # type: ignore[misc]
            for name, run in CANDIDATES.items()
        },
        budget=budget,
        min_rounds=min_rounds,
    )
    rank = oracle.rank(variance)
    errors = {name: score_error(oracle, result) for name, result in results.items()}
    return {
        "variance": variance,
        "keep": keep,
        "rank": rank,
        "gap": oracle.gap(rank),
        "solver": found.solver[0],
        "steps": int(found.steps),
        "size": int(found.size),
        "refined": bool(found.refined),
        "seconds": {name: median(times) for name, times in durations.items()},
        "rounds": {name: len(times) for name, times in durations.items()},
        "stages": _stages(x, keep, variance, min_rounds) if found.solver == ["tridiag"] else None,
        "ranks": {name: int(result[3]) for name, result in results.items()},
        "errors": {name: error for name, (error, _) in errors.items()},
        "allowed": {name: allowed for name, (_, allowed) in errors.items()},
        "common": {name: in_common(oracle, rank, result) for name, result in results.items()},
    }


def _stages(x: Tensor, keep: int, variance: float, rounds: int) -> dict[str, float]:
    # Of the float32 solve, where the image is solved again in float64.
    stage_times, features = load_native().stage_times, x.numpy()
    stage_times(features, keep, variance)
    times = [stage_times(features, keep, variance) for _ in range(rounds)]
    return {stage: median([one[stage] for one in times]) for stage in STAGES}


def score_error(
    oracle: Oracle, result: tuple[Tensor, ...]
) -> tuple[float, float] | tuple[None, None]:
    """Largest distance to the oracle's scores at the rank that the candidate found.

    Args:
        oracle: Of the image.
        result: Tokens, indices, scores [1, N] and rank [1].

    Returns:
        The distance, and the one allowed; None where the oracle's own scores have no meaning at that rank.
    """
    rank = int(result[3])
    allowed = oracle.allowed(rank)
    if allowed >= UNDEFINED:
        return None, None
    return (result[2][0].double() - oracle.scores(rank)).abs().max().item(), allowed


def in_common(oracle: Oracle, rank: int, result: tuple[Tensor, ...]) -> int:
    """How many of the tokens kept the oracle keeps too; equal scores stand for one another.

    Args:
        oracle: Of the image.
        rank: The oracle's.
        result: Tokens, indices [1, keep], scores and rank.

    Returns:
        A number up to keep.
    """
    scores, kept = oracle.scores(rank), result[1][0]
    last = scores[oracle_topk(scores, len(kept))].min()
    return int((scores[kept] >= last - _TIE).sum())


def _print(result: dict[str, Any], console: Console) -> None:
    console.print(machine_line(result["machine"]))
    table = Table("at", *HEADER, title="The solvers on the hard suite (medians)")
    for row in result["solvers"]:
        table.add_row(f"{row['variance']:g}", *cells(row))
    console.print(table)
    console.print(summary(result["solvers"]))


if __name__ == "__main__":
    sys.exit(main())
