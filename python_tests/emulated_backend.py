"""The whole CUDA backend on the CPU, from the dispatcher down: ``torch.ops.svdprune_emulated``.

Host files and kernels are those of csrc/cuda; python_tests/emulation stands in for the CUDA runtime, cuBLAS,
cuSOLVER and torch's CUDA shims. Built on first use.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ctypes import Structure, c_int64
from functools import cache
from pathlib import Path

import torch
from emulated import FEW_THREADS, HERE, compile_objects, cuda_headers, link

SOURCES = HERE.parent / "csrc"
NAMESPACE = "svdprune_emulated"
MOST_EIGENPROBLEM = 12_000  # numbers in one call of cuSOLVER, whose own limit is 2^31 - 1

TF32_MATH = 3  # of cuBLAS, and of the handle that torch lends where its user allows TF32


class State(Structure):
    """``standins::State`` of emulation/host/standins.h."""

    _fields_ = tuple(
        (name, c_int64)
        for name in (
            *("failing_image", "refused_multiply", "refused_solve", "refused_wait"),
            *("math", "capturing"),
            *("products", "tf32_products", "solves", "solvers", "waits", "copies", "guards"),
        )
    )


def library_headers() -> Path | None:
    """The include folder of cuBLAS and cuSOLVER: of the toolkit, or of pip's packages; or None."""
    site = Path(torch.__file__).resolve().parents[1]
    wheels = HERE.parent / "build/cuda-wheels"  # which .ci/cuda fills
    folders = [cuda_headers(), *(p / "nvidia/cu13/include" for p in (wheels, site))]
    return next((f for f in folders if f and (f / "cusolverDn.h").exists()), None)


def why_not() -> str:
    """Why the backend cannot be emulated; empty where it can."""
    if cuda_headers() is None:
        return "no CUDA headers found"
    if library_headers() is None:
        return "no headers of cuBLAS and cuSOLVER found: .ci/cuda installs them"
    return ""


def build(
    folder: Path,
    kernels: list[Path],
    namespace: str = NAMESPACE,
    options: Sequence[str] = FEW_THREADS,
) -> None:
    """Compiles the host files and the stand-ins, and links all with the kernels: emulated_backend.so.

    Its operators are ``torch.ops.NAMESPACE``; two libraries of one namespace cannot be in one process.
    """
    root = Path(torch.__file__).parent
    names = [n for n in (SOURCES / "sources.txt").read_text().split() if n.startswith("cuda/")]
    host = folder / "host.cpp"  # all in one, as torch's headers take most of the time
    parts = ["ops.cpp", *(name for name in names if name.endswith(".cpp"))]
    host.write_text("".join(f'#include "{SOURCES / part}"\n' for part in parts))
    objects = compile_objects(
        folder,
        [host, *sorted((HERE / "emulation/host").glob("*.cpp"))],
        [
            *(f"-DSVDPRUNE_NAMESPACE={namespace}", *options),
            *("-DUSE_CUDA", "-DTORCH_TARGET_VERSION=0x020a000000000000"),
            f"-DSVDPRUNE_MOST_EIGENPROBLEM={MOST_EIGENPROBLEM}",
            *("-isystem", root / "include", "-include", HERE / "emulation/host/registration.h"),
            *("-idirafter", library_headers()),
        ],
    )
    link(
        folder / "emulated_backend.so",
        [*kernels, *objects],
        [f"-L{root / 'lib'}", "-Wl,--no-as-needed", "-ltorch", "-ltorch_cpu"],
    )


@cache
def load(library: Path) -> State:
    """Registers the operators, once. Returns what the stand-ins note and can be told."""
    torch.ops.load_library(str(library))
    loaded = ctypes.CDLL(str(library))
    loaded.emulated_state.restype = ctypes.POINTER(State)
    return loaded.emulated_state().contents


@contextmanager
def in_place_of_the_operators(library: Path, namespace: str = NAMESPACE) -> Iterator[State]:
    """``torch.ops.svdprune`` is the emulated backend meanwhile, and uninitialised memory is NaN."""
    state, original = load(library), torch.ops.svdprune
    deterministic = torch.are_deterministic_algorithms_enabled()
    torch.ops.svdprune = getattr(torch.ops, namespace)
    torch.use_deterministic_algorithms(True)  # which fills what new_empty gives
    start = {"failing_image": -1, "math": TF32_MATH}
    for name, _ in State._fields_:
        setattr(state, name, start.get(name, 0))
    try:
        yield state
    finally:
        torch.ops.svdprune = original
        torch.use_deterministic_algorithms(deterministic)
