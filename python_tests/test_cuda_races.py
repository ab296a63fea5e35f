"""Races in the kernels' memory, shared, as compute-sanitizer's racecheck looks for them, and global."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import emulated
import emulated_backend
import pytest
import torch
from conftest import built_once
from cuda_calls import features, operator_calls
from samples import gaussian
from torch import Tensor

import svdprune_ext as svdprune

pytestmark = pytest.mark.skipif(
    bool(emulated_backend.why_not()), reason=emulated_backend.why_not() or "can be emulated"
)
NAMESPACE = "svdprune_watched"
# The samples of emulation/races_sample.cu, in their order, and whether there is a race.
SAMPLES = {
    "a barrier": False,
    "no barrier": True,
    "read before a write": True,
    "a barrier between the two": False,
    "__syncwarp": False,
    "a shuffle alone": True,
    "a copy that one thread waited for": True,
    "a copy and a barrier": False,
    "a barrier of the cluster": False,
    "no barrier of the cluster": True,
    "bytes side by side": False,
    "global memory and a barrier": False,
    "global memory and no barrier": True,
    "a copy out of global memory that is overwritten": True,
    "places of two clusters": False,
    "a place of two clusters": True,
}


@pytest.fixture(scope="module")
def watched(tmp_path_factory) -> Path:
    """The whole CUDA backend, with kernels that tell of each access to shared memory."""

    def build(folder: Path) -> None:
        emulated.build_kernels(folder, watched=True)
        kernels = sorted(folder.glob("*.o"))
        emulated_backend.build(folder, kernels, NAMESPACE, emulated.WATCHED)

    return built_once(tmp_path_factory, "watched_backend", build) / "emulated_backend.so"


def races(library: Path) -> list[str]:
    """Those found since the last call: their kind, and where the two accesses are."""
    loaded = ctypes.CDLL(str(library))
    start = next(
        int(line.split("-")[0], 16)
        for line in Path("/proc/self/maps").read_text().splitlines()
        if line.endswith(str(library))
    )
    loaded.emulated_races.restype = ctypes.c_char_p
    found = loaded.emulated_races(ctypes.c_void_p(start)).decode().splitlines()
    return [readable(library, *line.split(":")) for line in found]


def readable(library: Path, kind: str, *places: str) -> str:
    """A race with its lines of source."""
    command = ["addr2line", "-e", library, *(hex(int(p) - 1) for p in places)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = [line.rpartition("/")[2] for line in done.stdout.splitlines()]
    return f"{kind}: {' and '.join(lines)}"


@pytest.mark.parametrize("sample", SAMPLES)
def test_races_are_found_and_nothing_else(watched, sample):
    emulated_backend.load(watched)
    out = (ctypes.c_int * 128)()
    ctypes.CDLL(str(watched)).emulated_races_sample(list(SAMPLES).index(sample), out)
    found = races(watched)
    assert bool(found) == SAMPLES[sample], found
    assert all("races_sample.cu" in race for race in found)


def rater_arguments() -> tuple[Tensor, ...]:
    q, k = gaussian(2, 4, 37, 24, seed=0), gaussian(2, 2, 37, 24, seed=1)
    return q, k, torch.tensor([[30, 35, -1], [36, 2, 8]]), torch.arange(5, 26).repeat(2, 1)


CALLS: dict[str, Callable[[], object]] = {
    **{
        name: partial(call, features(device="cpu"))
        for name, call in operator_calls("cpu").items()
        if name
        not in {"leverage_scores purify", "prune_adaptive purify"}  # its kernel is a slow one
    },
    "16 bits": lambda: svdprune.prune(gaussian(2, 37, 53, dtype=torch.bfloat16), 7),
    "centred": lambda: svdprune.prune(gaussian(2, 37, 53), 7, center=True),
    "tokens along memory": lambda: svdprune.prune(gaussian(53, 37).mT, 7),
    "a flat spectrum": lambda: svdprune.prune(gaussian(1, 90, 120), 7, variance=0.6),
    "pivoted": lambda: svdprune.prune(gaussian(2, 100, 53), 9, select="pivoted"),
    "pivoted by coverage": lambda: svdprune.prune_adaptive(
        gaussian(2, 300, 24), 9, coverage=0.5, select="pivoted"
    ),
    "the features' side": lambda: svdprune.prune(gaussian(1, 1030, 40), 7),
    "raters": lambda: svdprune.rater_scores(*rater_arguments()),
    "raters by head": lambda: svdprune.rater_scores_by_head(*rater_arguments()),
}


@pytest.mark.parametrize("call", CALLS)
def test_no_kernel_has_one(watched, call):
    with emulated_backend.in_place_of_the_operators(watched, NAMESPACE):
        CALLS[call]()
    assert races(watched) == []
