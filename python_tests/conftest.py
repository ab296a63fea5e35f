"""What several test files share and is built once."""

import os

# Workers that run side by side share the cores: before torch is imported, which takes all of them else.
if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 0)):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))

import fcntl
import sys

import emulated
import emulated_backend
import pytest
import torch
from backends import NAMES, WHY_NOT, Backend


def pytest_runtest_logfinish():
    """After a kernel that failed, nothing runs on the device any more: another worker takes over."""
    if "PYTEST_XDIST_WORKER" in os.environ and torch.cuda.is_initialized():
        try:
            torch.cuda.synchronize()
        except RuntimeError as error:
            print(f"svdprune: the device is lost: {error}", file=sys.stderr, flush=True)
            os._exit(1)


def built_once(tmp_path_factory, name, build):
    """The folder that ``build`` fills: by the first worker that asks, while the others wait for it."""
    root = tmp_path_factory.getbasetemp()
    folder = (root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / name
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "done").exists():
            build(folder)
            (folder / "done").touch()
    return folder


@pytest.fixture(scope="session")
def kernels(tmp_path_factory):
    """Objects of the CUDA kernels, compiled for the CPU; needs the headers of CUDA."""
    folder = built_once(tmp_path_factory, "emulated_kernels", emulated.build_kernels)
    return sorted(folder.glob("*.o"))


@pytest.fixture(scope="session")
def library(tmp_path_factory, kernels):
    """The CUDA kernels, compiled for the CPU; needs the headers of CUDA."""
    folder = built_once(tmp_path_factory, "emulated", lambda f: emulated.build(f, kernels))
    return folder / "emulated.so"


@pytest.fixture(scope="session")
def emulated_operators(tmp_path_factory, request):
    """The whole CUDA backend, compiled for the CPU; skips without the headers of cuBLAS and cuSOLVER."""
    if reason := emulated_backend.why_not():
        pytest.skip(reason)
    kernels = request.getfixturevalue("kernels")
    folder = built_once(
        tmp_path_factory, "emulated_backend", lambda f: emulated_backend.build(f, kernels)
    )
    return folder / "emulated_backend.so"


@pytest.fixture(params=NAMES)
def backend(request):
    """A GPU, and the emulation of CUDA's backend, in whose place ``svdprune`` is meanwhile."""
    name = request.param
    if reason := WHY_NOT[name]():
        pytest.skip(reason)
    if name == "cuda":
        yield Backend(name, "cuda")
        return
    library = request.getfixturevalue("emulated_operators")
    with emulated_backend.in_place_of_the_operators(library) as state:
        yield Backend(name, "cpu", state)
        # What no call may do, or leave.
        assert state.guards == 0
        assert state.waits == state.copies == 0
        assert state.tf32_products == 0
        assert state.math == emulated_backend.TF32_MATH
