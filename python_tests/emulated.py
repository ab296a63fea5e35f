"""The CUDA stages with their kernels run on the CPU: python_tests/emulation, built on first use."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from ctypes import Structure, byref, c_double, c_int, c_int64, c_void_p
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

HERE = Path(__file__).resolve().parent
KERNELS = HERE.parent / "csrc" / "cuda"
MARGIN = 64  # numbers, on either side of an output
SOURCES = (
    *("pack", "gram_fused", "leverage", "select", "pivot", "gather", "eig_select", "purify"),
    *("leverage_of_vectors", "rater_rows", "rater_heads"),
)
EXPORTED = (
    *("pass_on", "send_all", "gram_fused", "eig_select", "purify", "pivot", "pivot_float64"),
    *("feature_means", "largest_magnitude", "pack", "leverage", "select", "gather"),
    *("rater_scores", "rater_scores_by_head"),
)
# For speed, blocks of fewer threads than on a device; and what is watched for races.
FEW_THREADS = ("-DSVDPRUNE_EMULATED_FEW_THREADS",)
WATCHED = ("-DSVDPRUNE_RACES",)
# Calls before each access, with their lines; not those of the compiler's own library.
CALLED = ("-fsanitize=thread", "--param=tsan-instrument-func-entry-exit=0", "-g1")
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def cuda_headers() -> Path | None:
    """The include folder of a CUDA toolkit, or None."""
    nvcc = shutil.which("nvcc")
    roots = [Path("/usr/local/cuda"), *([Path(nvcc).resolve().parents[1]] if nvcc else [])]
    return next((r / "include" for r in roots if (r / "include/cuda_fp16.h").exists()), None)


def compile_each(
    folder: Path, sources: Iterable[Path], command: Sequence[str | Path]
) -> list[Path]:
    """Runs a compiler on sources, side by side. Returns their objects."""

    def compile_one(source: Path) -> Path:
        target = folder / f"{source.name}.o"
        subprocess.run([*command, "-c", source, "-o", target], check=True)
        return target

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        return list(pool.map(compile_one, sources))


def compile_objects(
    folder: Path, sources: Iterable[Path], options: Sequence[str | Path] = ()
) -> list[Path]:
    """Compiles C++ and CUDA sources for the CPU."""
    command = [
        # Without the C library's check of jumps, which takes one to another stack for a mistake.
        *(os.environ.get("CXX", "c++"), "-std=c++20", "-O1", "-fPIC", "-U_FORTIFY_SOURCE"),
        *("-DSVDPRUNE_EMULATED", "-include", HERE / "emulation/executor.h", *options),
        *("-isystem", cuda_headers(), "-x", "c++"),
    ]
    return compile_each(folder, sources, command)


def link(library: Path, objects: Iterable[Path], options: Sequence[str | Path] = ()) -> None:
    """Links a library that needs nothing but what it is told of."""
    subprocess.run(
        [
            *(os.environ.get("CXX", "c++"), "-shared", "-Wl,--no-undefined"),
            f"-Wl,--version-script={HERE / 'emulation/exports.map'}",
            *(*objects, *options, "-o", library),
        ],
        check=True,
    )


def build_kernels(folder: Path, watched: bool = False) -> None:
    """Objects of the kernels, with the runtime that launches them; watched: for races, see races.h."""
    sources = [KERNELS / f"{name}.cu" for name in SOURCES]
    runtime = [HERE / "emulation/cudart.cpp"]
    if watched:
        compile_objects(folder, [*sources, HERE / "emulation/races_sample.cu"], [*WATCHED, *CALLED])
        compile_objects(folder, [*runtime, HERE / "emulation/races.cpp"], WATCHED)
    else:
        compile_objects(folder, [*sources, *runtime], FEW_THREADS)


def build(folder: Path, kernels: list[Path]) -> None:
    """The library of the kernels, emulated.so."""
    objects = compile_objects(folder, [HERE / "emulation/kernels.cpp"], FEW_THREADS)
    link(folder / "emulated.so", [*kernels, *objects])


class _Images(Structure):
    _fields_ = (
        ("images", c_int64),
        ("tokens", c_int64),
        ("features", c_int64),
        ("data", c_void_p),
        ("dtype", c_int),
        ("image_stride", c_int64),
        ("token_stride", c_int64),
        ("feature_stride", c_int64),
        ("cu_seqlens", c_void_p),
        ("total_tokens", c_int64),
    )


class _Budget(Structure):
    _fields_ = (
        ("keep", c_int64),
        ("cu_keep", c_void_p),
        ("total_keep", c_int64),
        ("coverage", c_double),
    )


def _pointer(tensor: Tensor | None) -> c_void_p:
    return c_void_p(None if tensor is None else tensor.data_ptr())


class Emulated:
    """The launches of csrc/cuda/launch.h, on CPU tensors: x [B, N, D], or packed [T, D]."""

    def __init__(self, library: Path, x: Tensor, cu_seqlens: Tensor | None = None) -> None:
        self._library_path = library
        self._library = _load(library)
        self.x = x
        self._margins: dict[int, tuple[Tensor, Tensor]] = {}
        self.cu_seqlens = cu_seqlens
        if cu_seqlens is None:
            images, self.tokens, self.features = x.shape
            strides = x.stride()
        else:
            images, self.tokens = len(cu_seqlens) - 1, int(cu_seqlens.diff().max())
            self.features, strides = x.shape[1], (0, *x.stride())
        self.images = images
        self._args = _Images(
            images,
            self.tokens,
            self.features,
            x.data_ptr(),
            DTYPES.index(x.dtype),
            *strides,
            _pointer(cu_seqlens),
            x.shape[0] if cu_seqlens is not None else 0,
        )

    def _output(self, shape: tuple[int, ...], fill: float, dtype: torch.dtype) -> Tensor:
        # Between margins, which a kernel that writes outside would change.
        count = torch.Size(shape).numel()
        whole = torch.full((count + 2 * MARGIN,), fill).to(dtype)
        output = whole[MARGIN : MARGIN + count].view(shape)
        self._margins[id(output)] = (whole, whole.clone())
        return output

    def _checked(self, output: Tensor) -> Tensor:
        whole, before = self._margins.pop(id(output))
        for part in (slice(None, MARGIN), slice(-MARGIN, None)):
            torch.testing.assert_close(
                whole[part], before[part], rtol=0, atol=0, equal_nan=True, msg="written outside"
            )
        return output

    def means(self) -> Tensor:
        """[B, D]."""
        means = self._output((self.images, self.features), float("nan"), torch.float64)
        self._library.emulated_feature_means(byref(self._args), _pointer(means))
        return self._checked(means)

    def largest(self, means: Tensor | None = None) -> Tensor:
        """[B]."""
        largest = self._output((self.images,), -1.0, torch.float64)
        self._library.emulated_largest_magnitude(
            byref(self._args), _pointer(means), _pointer(largest)
        )
        return self._checked(largest)

    def pack(self, dtype: torch.dtype, means: Tensor | None, largest: Tensor) -> Tensor:
        """[B, N, D]."""
        packed = self._output((self.images, self.tokens, self.features), float("nan"), dtype)
        self._library.emulated_pack(
            byref(self._args),
            _pointer(means),
            _pointer(largest),
            _pointer(packed),
            DTYPES.index(dtype),
        )
        return self._checked(packed)

    def gram_fused_partials(self) -> int:
        """Blocks an image."""
        return self._library.emulated_gram_fused_partials(byref(self._args))

    def gram_fused(
        self, *, clusters: bool = True, backwards: bool = False
    ) -> tuple[Tensor, Tensor, int]:
        """Gram matrix [B, N, N]; its trace and squared norm [B, 2]; blocks an image."""
        with device(self._library_path, backwards=backwards, clusters=clusters):
            blocks = self.gram_fused_partials()
            nan = float("nan")
            gram = self._output((self.images, self.tokens, self.tokens), nan, torch.float32)
            partials = self._output((self.images, blocks, 2), nan, torch.float64)
            self._library.emulated_gram_fused(byref(self._args), _pointer(gram), _pointer(partials))
        return self._checked(gram), self._checked(partials).sum(1), blocks

    def leverage(
        self,
        packed: Tensor,
        largest: Tensor,
        *,
        variance: float = 0.9,
        rank: int | None = None,
        info: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Scores [B, N] or [T] and rank [B]; cuBLAS's and cuSOLVER's parts are torch's here."""
        work = packed.float()
        on_tokens = self.tokens <= self.features
        gram = work @ work.mT if on_tokens else work.mT @ work
        eigenvalues, vectors = torch.linalg.eigh(gram.nan_to_num(0))
        basis = vectors if on_tokens else work @ vectors
        basis = basis.mT.contiguous()  # column-major
        info = torch.zeros(self.images, dtype=torch.int32) if info is None else info
        scores = self._output(self.x.shape[:-1], -1.0, torch.float32)
        ranks = self._output((self.images,), -7, torch.int32)
        self._library.emulated_leverage(
            byref(self._args),
            ctypes.c_bool(on_tokens),
            c_int64(eigenvalues.shape[1]),
            _pointer(basis),
            _pointer(eigenvalues.contiguous()),
            _pointer(largest),
            _pointer(info),
            c_double(variance),
            c_int64(rank or 0),
            _pointer(scores),
            _pointer(ranks),
        )
        return self._checked(scores), self._checked(ranks)

    def keep(
        self,
        scores: Tensor,
        ranks: Tensor,
        keep: int | Tensor,
        coverage: float = 0,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens, indices, count; ``keep``: a number, or offsets [B + 1] for packed images."""
        packed = isinstance(keep, Tensor)
        total = int(keep[-1]) if packed else 0
        budget = _Budget(0 if packed else keep, _pointer(keep) if packed else None, total, coverage)
        kept = self._output(scores.shape, 9, torch.uint8)
        self._library.emulated_select(
            byref(self._args), _pointer(scores), _pointer(ranks), byref(budget), _pointer(kept)
        )
        return self.gather(self._checked(kept), budget, total, packed)

    def gather(
        self, kept: Tensor, budget: _Budget, total: int, packed: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens, indices, count of what is kept [B, N] or [T]; ``total`` places of packed images."""
        shape = (total,) if packed else (self.images, budget.keep)
        tokens = self._output((*shape, self.features), -3.0, self.x.dtype)
        indices = self._output(shape, -9, torch.int64)
        counts = self._output((self.images,), -9, torch.int32)
        self._library.emulated_gather(
            byref(self._args),
            _pointer(kept),
            byref(budget),
            _pointer(tokens),
            _pointer(indices),
            _pointer(counts),
        )
        return self._checked(tokens), self._checked(indices), self._checked(counts)


def pass_on(
    library: Path, blocks: int, threads: int, cluster: int, *, backwards: bool = False
) -> tuple[Tensor, Tensor]:
    """The kernel of emulation/kernels.cpp that shows what blocks of a cluster exchange."""
    received, sums = torch.full((2, blocks, threads), -1)
    with device(library, backwards=backwards):
        _load(library).emulated_pass_on(
            blocks, threads, cluster, _pointer(received), _pointer(sums)
        )
    return received, sums


def send_all(
    library: Path, blocks: int, threads: int, cluster: int, rounds: int, *, backwards: bool = False
) -> Tensor:
    """The kernel of emulation/kernels.cpp whose blocks count what arrives from the others."""
    received = torch.full((blocks, threads), -1)
    with device(library, backwards=backwards):
        _load(library).emulated_send_all(blocks, threads, cluster, rounds, _pointer(received))
    return received


@contextmanager
def device(
    library: Path, *, backwards: bool = False, clusters: bool = True, silent: bool = False
) -> Iterator[None]:
    """Sets the order that threads run in, whether the device has clusters, and whether its driver leaves open
    how many blocks there is room for."""
    emulated = ctypes.CDLL(str(library))
    emulated.emulated_device(*map(ctypes.c_bool, (backwards, clusters, silent)))
    try:
        yield
    finally:
        emulated.emulated_device(*map(ctypes.c_bool, (False, True, False)))


@cache
def _load(library: Path) -> ctypes.CDLL:
    loaded = ctypes.CDLL(str(library))
    for name in EXPORTED:
        getattr(loaded, f"emulated_{name}").restype = None
    loaded.emulated_gram_fused_partials.restype = c_int64
    loaded.emulated_rater_tiles.restype = c_int64
    loaded.emulated_pivot_on_chip.restype = c_int64
    loaded.emulated_pivot_numbers.restype = c_int64
    loaded.emulated_purify_state_bytes.restype = c_int64
    return loaded
