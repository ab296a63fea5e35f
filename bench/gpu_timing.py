"""How the GPU benchmarks take time: CUDA events, a flushed L2, alternating rounds, medians.

Importable without a GPU.
"""

from __future__ import annotations

import importlib.metadata
import subprocess
from collections.abc import Callable, Mapping
from typing import Any

import torch

from bench.timing import describe_machine, median

Run = Callable[[], object]


class EventTimer:
    """Seconds on the device from a call's first kernel to its last, from a cold L2.

    A buffer of twice the L2 is overwritten before each call, in the same stream. In eager mode the host's
    launches are part of the time wherever the device waits for them.
    """

    def __init__(self, device: int = 0) -> None:
        l2 = int(getattr(torch.cuda.get_device_properties(device), "L2_cache_size", 0))
        size = max(2 * l2, 64 * 2**20)
        self._flush = torch.empty(size, dtype=torch.int8, device=f"cuda:{device}")

    def __call__(self, run: Run) -> float:
        """Seconds that one call takes."""
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self._flush.zero_()
        start.record()
        run()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3


def alternating(
    candidates: Mapping[str, Run],
    time_once: Callable[[Run], float],
    *,
    budget: float,
    max_rounds: int = 50,
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Times competitors in alternating rounds; one that fails is left out, with its message.

    Args:
        candidates: What to time, by name. Each first runs once to warm up; where that alone is over the
            budget, it is its only round.
        time_once: Seconds of one call.
        budget: Seconds that each candidate may take in all its rounds.
        max_rounds: Rounds after which the fastest candidate stops.

    Returns:
        Durations in seconds by name, and messages of failures by name.
    """
    durations: dict[str, list[float]] = {}
    failures: dict[str, str] = {}
    for name, run in candidates.items():
        try:
            first = time_once(run)
        except Exception as error:
            failures[name] = first_line(error)
            continue
        durations[name] = [first] if first > budget else []
    running = [name for name, rounds in durations.items() if not rounds]
    while running:
        for name in running:
            durations[name].append(time_once(candidates[name]))
        running = [
            name
            for name in running
            if len(durations[name]) < max_rounds and sum(durations[name]) < budget
        ]
    return durations, failures


def first_line(error: BaseException) -> str:
    """An exception in one line of at most 200 characters."""
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {text}"[:200]


def captured(run: Run) -> Run:
    """A call's CUDA graph, as a function that replays it.

    Raises:
        RuntimeError: The call cannot be captured.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        run()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = run()
    return lambda: (graph.replay(), kept)


def ceilings(time_once: Callable[[Run], float], rounds: int = 9) -> dict[str, float]:
    """What the device reaches in this run: copying, and products of random matrices.

    Returns:
        ``copy`` in bytes read and written per second; ``bfloat16`` and ``float32`` (without TF32) in
        floating-point operations per second.
    """
    source = torch.randint(-128, 127, (2**30,), dtype=torch.int8, device="cuda")
    target = torch.empty_like(source)
    seconds = _typical(lambda: target.copy_(source), time_once, rounds)
    result = {"copy": 2 * source.numel() / seconds}
    for dtype, n in ((torch.bfloat16, 8192), (torch.float32, 4096)):
        a, b = (torch.randn(n, n, device="cuda").to(dtype) for _ in range(2))
        seconds = _typical(lambda a=a, b=b: a @ b, time_once, rounds)
        result[str(dtype).removeprefix("torch.")] = 2 * n**3 / seconds
    return result


def _typical(run: Run, time_once: Callable[[Run], float], rounds: int) -> float:
    for _ in range(3):
        run()
    return median([time_once(run) for _ in range(rounds)])


def describe_gpu() -> dict[str, Any]:
    """The machine and the versions, with those of the GPU; ``gpu`` is None where there is none."""
    machine = {
        **describe_machine(),
        "gpu": None,
        "driver": _driver(),
        "cuda": torch.version.cuda,
        **{name: _version(name) for name in ("transformers", "cupy-cuda13x", "triton")},
    }
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        machine["gpu"] = properties.name
        machine["capability"] = f"{properties.major}.{properties.minor}"
        machine["multiprocessors"] = properties.multi_processor_count
        machine["memory"] = properties.total_memory
    return machine


def _driver() -> str | None:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip().partition("\n")[0] or None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
