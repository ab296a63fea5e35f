"""The spectrum stage alone, of one image: which of cuSOLVER's eigensolvers is the faster?

* ``XsyevBatched``: what solver "eigh" calls, for every batch size;
* ``Xsyevd``: the one for a single matrix;
* ``torch.linalg.eigh``: which, for one matrix, calls an eigensolver of its own choice.

All on the same Gram matrices, with the eigenvectors; ``bench_gpu`` runs it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import byref, c_int, c_int64, c_size_t, c_void_p
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bench.gpu_timing import Run, alternating
from bench.inputs import Case
from bench.timing import median

SIDES = (256, 576, 1024)
DTYPES = (torch.float32, torch.float64)
_VECTORS, _LOWER = c_int(1), c_int(0)  # CUSOLVER_EIG_MODE_VECTOR, CUBLAS_FILL_MODE_LOWER
_TYPES = {torch.float32: c_int(0), torch.float64: c_int(1)}  # CUDA_R_32F, CUDA_R_64F


class CuSolver:
    """The cuSOLVER that torch has loaded, through ctypes.

    Args:
        stream: Address of the stream to work on.
        library: Name or path of the library.
    """

    def __init__(self, stream: int, library: str = "libcusolver.so.12") -> None:
        self._library = ctypes.CDLL(library)
        self._handle, self._params = c_void_p(), c_void_p()
        self._call("cusolverDnCreate", byref(self._handle))
        self._call("cusolverDnCreateParams", byref(self._params))
        self._call("cusolverDnSetStream", self._handle, c_void_p(stream))

    def decomposition(self, name: str, gram: Tensor) -> Callable[[], tuple[Tensor, Tensor]]:
        """A function that decomposes gram [n, n].

        Args:
            name: "XsyevBatched" or "Xsyevd".
            gram: float32 or float64, symmetric.

        Returns:
            Eigenvalues [n], ascending, and eigenvectors [n, n], one a row.
        """
        n, of_type = c_int64(gram.shape[0]), _TYPES[gram.dtype]
        images = (c_int64(1),) if name == "XsyevBatched" else ()
        vectors, values = torch.empty_like(gram), gram.new_empty(gram.shape[0])
        problem = (
            *(
                self._handle,
                self._params,
                _VECTORS,
                _LOWER,
                n,
                of_type,
                c_void_p(vectors.data_ptr()),
            ),
            *(n, of_type, c_void_p(values.data_ptr()), of_type),
        )
        on_device, on_host = c_size_t(), c_size_t()
        call = f"cusolverDn{name}"
        self._call(f"{call}_bufferSize", *problem, byref(on_device), byref(on_host), *images)
        workspace = gram.new_empty(max(1, on_device.value), dtype=torch.uint8)
        host_workspace = ctypes.create_string_buffer(max(1, on_host.value))
        info = gram.new_empty(1, dtype=torch.int32)

        def run() -> tuple[Tensor, Tensor]:
            vectors.copy_(gram)  # which the eigenvectors replace
            self._call(
                call,
                *problem,
                *(c_void_p(workspace.data_ptr()), on_device, host_workspace, on_host),
                c_void_p(info.data_ptr()),
                *images,
            )
            return values, vectors

        return run

    def _call(self, name: str, *arguments: Any) -> None:
        if status := getattr(self._library, name)(*arguments):
            raise RuntimeError(f"{name} failed with cuSOLVER status {status}")


def gram_matrix(side: int, dtype: torch.dtype) -> Tensor:
    """[side, side] of a photograph's features, on the CPU."""
    x = Case(1, side, 1024).features()[0].double()
    return (x @ x.mT).to(dtype)


def measure(time_once: Callable[[Run], float], budget: float) -> list[dict[str, Any]]:
    """A row for each side and dtype: seconds by eigensolver, in eager mode.

    Args:
        time_once: Seconds of one call.
        budget: Seconds in all, about.
    """
    solver = CuSolver(torch.cuda.current_stream().cuda_stream)
    cases = [(side, dtype) for side in SIDES for dtype in DTYPES]
    rows = []
    for side, dtype in cases:
        gram = gram_matrix(side, dtype).cuda()
        runs: dict[str, Run] = {
            "XsyevBatched": solver.decomposition("XsyevBatched", gram),
            "Xsyevd": solver.decomposition("Xsyevd", gram),
            "torch.linalg.eigh": partial(torch.linalg.eigh, gram),
        }
        durations, failures = alternating(runs, time_once, budget=budget / len(cases) / len(runs))
        rows.append(
            {
                "side": side,
                "dtype": str(dtype).removeprefix("torch."),
                "eager": {name: median(rounds) for name, rounds in durations.items()},
                "rounds": {name: len(rounds) for name, rounds in durations.items()},
                "skipped": failures,
            }
        )
    return rows
