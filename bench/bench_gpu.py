"""How fast is ``svdprune::prune`` on a GPU against its peers, and how near to what the GPU can do?

Competitors, on the same features, in alternating rounds, each in eager mode and, where it can be captured, as
a CUDA graph:

* ``svdprune``, ``svdprune_eigh``, ``svdprune_tridiag``: the operator, by solver;
* ``svdprune_pivoted``: the operator with the selection rule "pivoted", which decomposes nothing;
* ``gram_eigh``: Gram matrix and ``torch.linalg.eigh``, what a careful PyTorch user would write;
* ``cupy_eigh``: the same with ``cupy.linalg.eigh``, through DLPack;
* ``svd``: ``torch.linalg.svd`` of the features, the method to the letter.

``python -m bench.bench_gpu --json FILE [--budget SECONDS]``. A competitor that would be slow is timed in few
rounds, or left out with the reason in the result; the file is written after every case. Before them, the
spectrum stage alone, by ``eigensolvers``.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import svdprune_ext
from bench import eigensolvers
from bench.document import write
from bench.gpu_timing import EventTimer, alternating, captured, ceilings, first_line
from bench.inputs import Case
from bench.timing import median
from svdprune_ext.reference import gram_eigh_prune, reference_prune

KEEP = 32
BATCHES = (1, 8, 64)
SHAPES = (
    (576, 1024, torch.float32),
    (576, 1024, torch.bfloat16),
    (576, 4096, torch.float32),
    (576, 4096, torch.bfloat16),
    (256, 1024, torch.float32),
    (2880, 1024, torch.float32),
    (2880, 1024, torch.bfloat16),
)
SLOW_SECONDS = 1.5  # a peer whose call would take longer is left out
CAPTURE_FAILED = "not captured: "
_LEAST_IN_COMMON = KEEP - 2  # tokens that the CPU keeps too; those at the cut may be ties
_SPENT = "the time budget was spent"
_DISTINCT_IMAGES = 4  # a larger batch repeats them


@dataclass(frozen=True)
class GpuCase:
    """One input: features [images, tokens, width] with a photograph's spectrum or a flat one."""

    images: int
    tokens: int
    width: int
    dtype: torch.dtype
    spectrum: str = "photograph"

    @property
    def shape(self) -> tuple[int, int, torch.dtype, str]:
        """What cases of different batch sizes share."""
        return self.tokens, self.width, self.dtype, self.spectrum

    def features(self) -> Tensor:
        """Features [B, N, D] on the CPU."""
        images = min(self.images, _DISTINCT_IMAGES)
        distinct = Case(images, self.tokens, self.width, self.spectrum).features()
        repeats = -(-self.images // len(distinct))
        return distinct.repeat(repeats, 1, 1)[: self.images].to(self.dtype)

    def least_bytes(self) -> int:
        """Bytes that any way must move: the features read once, kept rows, scores, indices written."""
        size = self.dtype.itemsize
        row = 2 * KEEP * self.width * size  # read and written
        return self.images * (self.tokens * self.width * size + row + 4 * self.tokens + 8 * KEEP)

    def nominal_flops(self) -> int:
        """A symmetric Gram matrix and a full tridiagonalisation: n^2 m + 4/3 n^3, n <= m."""
        n, m = sorted((self.tokens, self.width))
        return self.images * (n * n * m + 4 * n**3 // 3)


CASES = [
    *(GpuCase(images, *shape) for images in BATCHES for shape in SHAPES),
    *(GpuCase(images, 576, 1024, torch.bfloat16, "flat") for images in BATCHES),
]
Candidate = Callable[[Tensor], object]
OURS: dict[str, Candidate] = {
    "svdprune": lambda x: torch.ops.svdprune.prune(x, KEEP),
    "svdprune_eigh": lambda x: torch.ops.svdprune.prune(x, KEEP, solver="eigh"),
    "svdprune_tridiag": lambda x: torch.ops.svdprune.prune(x, KEEP, solver="tridiag"),
    "svdprune_pivoted": lambda x: torch.ops.svdprune.prune(x, KEEP, select="pivoted"),
}


def cupy_eigh(gram: Tensor) -> tuple[Tensor, Tensor]:
    """``cupy.linalg.eigh`` on torch's stream, without a copy."""
    import cupy

    with cupy.cuda.ExternalStream(torch.cuda.current_stream().cuda_stream):
        energy, vectors = cupy.linalg.eigh(cupy.from_dlpack(gram))
        return torch.from_dlpack(energy), torch.from_dlpack(vectors)


PEERS: dict[str, Candidate] = {
    "gram_eigh": lambda x: gram_eigh_prune(x, KEEP),
    "cupy_eigh": lambda x: gram_eigh_prune(x, KEEP, eigh=cupy_eigh),
    "svd": lambda x: reference_prune(x, KEEP),
}


class Benchmark:
    """The rows as they come, and what earlier ones say about later ones."""

    def __init__(self, time_once: Callable[[Callable[[], object]], float], deadline: float) -> None:
        self._time_once = time_once
        self.deadline = deadline
        self._per_image: dict[tuple[str, object], float] = {}
        self._uncapturable: dict[str, str] = {}
        self.rows: list[dict[str, Any]] = []

    def eager(self, case: GpuCase, x: Tensor, budget: float) -> None:
        """Adds the case's row, with the times in eager mode."""
        row: dict[str, Any] = {
            "images": case.images,
            "tokens": case.tokens,
            "width": case.width,
            "spectrum": case.spectrum,
            "dtype": str(case.dtype).removeprefix("torch."),
            "keep": KEEP,
            "bytes": case.least_bytes(),
            "flops": case.nominal_flops(),
            "eager": {},
            "graph": {},
            "rounds": {},
            "skipped": {},
        }
        self.rows.append(row)
        if time.monotonic() > self.deadline:
            row["skipped"] = dict.fromkeys([*OURS, *PEERS], _SPENT)
            return
        candidates: dict[str, Callable[[], object]] = {}
        for name, candidate in (OURS | PEERS).items():
            reason = self._reason_to_skip(name, case)
            if reason:
                row["skipped"][name] = reason
            else:
                candidates[name] = partial(candidate, x)
        durations, failures = alternating(candidates, self._time_once, budget=budget)
        row["skipped"].update(failures)
        for name, rounds in durations.items():
            row["eager"][name] = median(rounds)
            row["rounds"][name] = len(rounds)
            self._per_image[name, case.shape] = median(rounds) / case.images

    def graphs(self, row: dict[str, Any], x: Tensor, names: list[str], budget: float) -> None:
        """Adds the times of graph replays to a row."""
        candidates: dict[str, Callable[[], object]] = {}
        for name in names:
            if name not in row["eager"] or time.monotonic() > self.deadline:
                continue
            if name in self._uncapturable:
                row["skipped"][f"{name} graph"] = self._uncapturable[name]
                continue
            try:
                candidates[name] = captured(partial((OURS | PEERS)[name], x))
            except Exception as error:
                row["skipped"][f"{name} graph"] = reason = CAPTURE_FAILED + first_line(error)
                if (
                    name in PEERS
                ):  # one attempt each: what waits for the host in one shape does in all
                    self._uncapturable[name] = reason
        durations, failures = alternating(candidates, self._time_once, budget=budget)
        row["graph"].update({name: median(rounds) for name, rounds in durations.items()})
        row["skipped"].update({f"{name} graph": why for name, why in failures.items()})

    def _reason_to_skip(self, name: str, case: GpuCase) -> str | None:
        if name in OURS:
            return None
        predicted = self._per_image.get((name, case.shape), 0.0) * case.images
        if predicted > SLOW_SECONDS:
            return f"about {predicted:.1f} s a call by smaller batches, over {SLOW_SECONDS} s"
        return None


def agreement_with_cpu(x: Tensor) -> dict[str, Any]:
    """The mean rank, and how many of the first image's kept tokens the CPU backend keeps too.

    Of solvers "auto" and "tridiag" besides: what really ran ("eigh" where those cannot), and the mean number
    of its steps.
    """
    expected = set(torch.ops.svdprune.prune(x[0].cpu(), KEEP)[1].tolist())

    def what_ran(solver: str) -> dict[str, Any]:
        kept = torch.ops.svdprune.prune(x, KEEP, solver=solver)[1]
        found = svdprune_ext.diagnose(x, solver=solver)
        return {
            "ran": found.solver[0],
            "steps": found.steps.float().mean().item(),
            "kept_as_on_cpu": len(expected & set(kept[0].tolist())),
        }

    rank = torch.ops.svdprune.prune(x, KEEP)[3]
    auto = what_ran("auto")
    return {
        "rank": rank.float().mean().item(),
        "kept_as_on_cpu": auto["kept_as_on_cpu"],
        "auto": auto,
        "tridiag": what_ran("tridiag"),
    }


def run(budget: float, save: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Measures everything within about ``budget`` seconds, and saves after every case."""
    start = time.monotonic()
    timer = EventTimer()
    result: dict[str, Any] = {"ceilings": ceilings(timer), "rows": []}
    try:
        result["eigensolvers"] = eigensolvers.measure(timer, budget / 20)
    except Exception as error:
        print(f"eigensolvers: {first_line(error)}", file=sys.stderr)
    for candidate in (OURS | PEERS).values():  # library handles, once
        try:
            candidate(Case(1, 64, 64).features().cuda())
        except Exception as error:
            print(first_line(error), file=sys.stderr)
    share = budget / len(CASES) / len(OURS | PEERS) / 4
    benchmark = Benchmark(timer, start + 0.7 * budget)
    result["rows"] = benchmark.rows
    inputs = [case.features().cuda() for case in CASES]
    for case, x in zip(CASES, inputs, strict=True):
        benchmark.eager(case, x, share)
        if "svdprune" in benchmark.rows[-1]["eager"]:
            benchmark.rows[-1].update(agreement_with_cpu(x))
        save(result)
    # Peers last: a capture that fails may leave the device unusable.
    benchmark.deadline = start + budget
    for names in (list(OURS), list(PEERS)):
        for x, row in zip(inputs, benchmark.rows, strict=True):
            benchmark.graphs(row, x, names, share)
            save(result)
    return result


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; exit status 0, 1 if the operator failed or kept others, 2 without a GPU."""
    parser = argparse.ArgumentParser(prog="bench.bench_gpu", description=__doc__)
    parser.add_argument("--json", type=Path, required=True, help="write the rows there")
    parser.add_argument("--budget", type=float, default=50.0, help="seconds in all, about")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("bench.bench_gpu: there is no GPU that torch can use", file=sys.stderr)
        return 2
    result = run(options.budget, lambda r: write(r, options.json))
    print(json.dumps(result, indent=1))
    for problem in (found := problems(result)):
        print(f"bench.bench_gpu: {problem}", file=sys.stderr)
    return int(bool(found))


def problems(result: dict[str, Any]) -> list[str]:
    """Where the operator failed, or kept other tokens than on the CPU; a line each."""
    found = []
    for row in result["rows"]:
        where = f"{row['images']} x {row['tokens']} x {row['width']}, {row['dtype']}"
        failed = {name: row["skipped"].get(name, _SPENT) for name in OURS}
        found += [f"{where}: {name}: {why}" for name, why in failed.items() if why != _SPENT]
        for solver in ("auto", "tridiag"):
            common = row[solver]["kept_as_on_cpu"] if solver in row else KEEP
            if common < _LEAST_IN_COMMON:
                found.append(
                    f"{where}: {solver} kept {common} of the {KEEP} tokens that the CPU keeps"
                )
    if not any("svdprune" in row["eager"] for row in result["rows"]):
        found.append("the operator was not measured")
    return found


if __name__ == "__main__":
    sys.exit(main())
