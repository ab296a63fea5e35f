"""What each kernel of a call takes on a GPU, by torch's profiler.

``python -m bench.gpu_kernels --json FILE``: calls of the operator on features of an image or more, warm, one
after the other. From a call's kernels its stages can be told: solver "eigh" has ``leverage``, ``select`` and
``gather`` beside those of cuBLAS and cuSOLVER, solver "tridiag" ``gram_fused`` and, for all the rest,
``eig_select``, to which "auto" adds ``purify`` for flat spectra. On the features' side ``eig_select`` is
followed by ``leverage_of_vectors``, ``select`` and ``gather``.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

import svdprune_ext  # noqa: F401  the operators
from bench.document import write
from bench.inputs import Case

KEEP = 32
CALLS = 20
CALLS_OF_EIGH = 2  # cuSOLVER launches thousands of kernels, whose records take seconds
INPUTS = (
    (Case(1, 576, 1024), torch.bfloat16),
    (Case(1, 576, 1024), torch.float32),
    (Case(1, 576, 1024, "flat"), torch.bfloat16),
    (Case(1, 2880, 1024), torch.bfloat16),
    (Case(1, 2880, 1024), torch.float32),
    (Case(8, 576, 1024), torch.bfloat16),
    (Case(64, 576, 1024), torch.bfloat16),
)
EIGH = 'solver "eigh"'
AUTO = 'solver "auto"'
OPERATORS: dict[str, Callable[[Tensor], object]] = {
    EIGH: lambda x: torch.ops.svdprune.prune(x, KEEP, solver="eigh"),
    AUTO: lambda x: torch.ops.svdprune.prune(x, KEEP),
    'solver "tridiag"': lambda x: torch.ops.svdprune.prune(x, KEEP, solver="tridiag"),
    'select "pivoted"': lambda x: torch.ops.svdprune.prune(x, KEEP, select="pivoted"),
}


def kernel_seconds(run: Callable[[], object], calls: int) -> dict[str, float]:
    """Seconds a call by kernel, in the order in which they are launched; copies and fills included."""
    run()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for _ in range(calls):
            run()
        torch.cuda.synchronize()
    seconds: dict[str, float] = {}
    for event in profiler.events():
        if event.device_type == torch.autograd.DeviceType.CUDA:
            name = short_name(event.name)
            seconds[name] = seconds.get(name, 0.0) + event.self_device_time_total / 1e6 / calls
    return seconds


def short_name(kernel: str) -> str:
    """A kernel's own name: without namespace, template's or call's arguments."""
    name = kernel.removeprefix("void ").replace("(anonymous namespace)::", "")
    return re.split(r"[<(]", name, maxsplit=1)[0].rpartition("::")[2].strip() or kernel


def measure() -> list[dict[str, Any]]:
    """A row for each input and operator; of "eigh" for the first input alone, of "auto" for flat spectra."""
    rows = []
    for case, dtype in INPUTS:
        x = case.features().to("cuda", dtype)
        for name, operator in OPERATORS.items():
            is_eigh = name == EIGH
            if is_eigh and (case, dtype) != INPUTS[0]:
                continue
            if name == AUTO and case.spectrum != "flat":  # it is "tridiag"
                continue
            calls = CALLS_OF_EIGH if is_eigh else CALLS
            rows.append(
                {
                    "images": case.images,
                    "tokens": case.tokens,
                    "width": case.width,
                    "spectrum": case.spectrum,
                    "dtype": str(dtype).removeprefix("torch."),
                    "keep": KEEP,
                    "operator": name,
                    "kernels": kernel_seconds(partial(operator, x), calls),
                }
            )
    return rows


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; exit status 0, or 2 without a GPU."""
    parser = argparse.ArgumentParser(prog="bench.gpu_kernels", description=__doc__)
    parser.add_argument("--json", type=Path, required=True, help="write the rows there")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("bench.gpu_kernels: there is no GPU that torch can use", file=sys.stderr)
        return 2
    rows = measure()
    write({"rows": rows}, options.json)
    print(json.dumps(rows, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
