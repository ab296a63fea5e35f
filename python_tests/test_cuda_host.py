"""How the host files of the CUDA backend use its libraries, and what they do when one fails: emulated."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import emulated
import pytest
import torch
from agreement import assert_agrees
from cuda_calls import assert_same_bits
from emulated_backend import MOST_EIGENPROBLEM
from samples import gaussian

import svdprune_ext as svdprune

pytestmark = pytest.mark.parametrize("backend", ["emulated"], indirect=True)
EIGH = {"solver": "eigh"}


def test_an_image_that_does_not_converge_is_marked(backend):
    x = gaussian(3, 20, 28)
    good = svdprune.prune(x, 6, **EIGH)
    backend.state.failing_image = 1
    tokens, indices, scores, rank = svdprune.prune(x, 6, **EIGH)
    assert rank[1] == -1
    assert scores[1].isnan().all()
    assert indices[1].tolist() == [0, 1, 2, 3, 4, 5]
    assert torch.equal(tokens[1], x[1, :6])
    for b in (0, 2):
        assert_same_bits([t[b] for t in (tokens, indices, scores, rank)], [t[b] for t in good])


@pytest.mark.parametrize(
    ("name", "status", "message"),
    [
        # CUBLAS_STATUS_EXECUTION_FAILED, CUSOLVER_STATUS_INTERNAL_ERROR
        (
            "refused_multiply",
            13,
            "svdprune: cublasGemmStridedBatchedEx failed: the function failed",
        ),
        ("refused_solve", 7, "svdprune: cusolverDnXsyevBatched failed with cuSOLVER status 7"),
    ],
)
def test_a_call_that_a_library_refuses_raises(backend, name, status, message):
    x = gaussian(20, 28)
    setattr(backend.state, name, status)
    with pytest.raises(RuntimeError, match=message):
        svdprune.prune(x, 6, **EIGH)
    setattr(backend.state, name, 0)
    assert (
        svdprune.prune(x, 6, **EIGH).rank > 0
    )  # the device's guard and the handle's mode were put back


@pytest.mark.parametrize("shape", [(13, 31, 34), (9, 50, 40)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_batch_beyond_one_call_of_the_eigensolver_takes_several(backend, shape, dtype):
    images, side = shape[0], min(shape[1:])
    calls = -(-images // (MOST_EIGENPROBLEM // side**2))
    assert calls > 1
    x = gaussian(*shape, dtype=dtype)
    out = svdprune.prune(x, 6, **EIGH)
    assert backend.state.solves == calls
    assert_agrees(x, out.scores, out.rank, out.indices, options=EIGH)


def test_a_thread_makes_one_handle_and_leaves_it_to_the_next(backend):
    x = gaussian(20, 28)
    expected = svdprune.prune(x, 6, **EIGH)
    made = backend.state.solvers

    def twice():
        return [svdprune.prune(x, 6, **EIGH) for _ in range(2)]

    for _ in range(3):  # a thread after the other: the emulation runs one kernel at a time
        with ThreadPoolExecutor(1) as thread:
            for got in thread.submit(twice).result():
                assert_same_bits(got, expected)
    assert backend.state.solvers - made <= 1


def test_a_capture_that_would_wait_is_refused_before_any_work(backend):
    backend.state.capturing = 1
    assert svdprune.leverage_scores(gaussian(20, 28), **EIGH).rank > 0
    made = backend.state.products
    refused = pytest.raises(
        RuntimeError, match=r'"eigh" must have min\(N, D\) <= 512 in a CUDA .* got 513'
    )
    with refused:
        svdprune.leverage_scores(gaussian(513, 514), **EIGH)
    assert backend.state.products == made


def test_auto_is_tridiag(backend):
    assert svdprune.diagnose(gaussian(12, 28)).solver == ["tridiag"]
    assert svdprune.diagnose(gaussian(12, 28).double()).solver == ["eigh"]


def test_without_clusters_eigh_stands_in(backend, emulated_operators):
    x = gaussian(12, 28)
    assert svdprune.diagnose(x, solver="tridiag").solver == ["tridiag"]
    with emulated.device(emulated_operators, clusters=False):
        assert svdprune.diagnose(x, solver="tridiag").solver == ["eigh"]
        got = svdprune.prune(x, 6, solver="tridiag")
    assert_same_bits(got, svdprune.prune(x, 6, solver="eigh"))


@pytest.mark.parametrize("solver", ["tridiag", "eigh"])
@pytest.mark.parametrize(
    ("cu_seqlens", "cu_keep", "longest", "unwritten_scores", "unwritten_places"),
    [
        ([0, 10, 40], [0, 2, 8], 20, slice(30, 40), slice(0, 0)),  # an image longer than max_seqlen
        ([0, 10, 30], [0, 2, 8], 30, slice(30, 40), slice(0, 0)),  # tokens of no image
        ([0, 10, 40], [0, 2, 6], 30, slice(0, 0), slice(6, 8)),  # places of no image
    ],
)
def test_what_wrong_offsets_leave_out_is_marked(
    backend, solver, cu_seqlens, cu_keep, longest, unwritten_scores, unwritten_places
):
    offsets = torch.tensor(cu_seqlens), torch.tensor(cu_keep)
    x = gaussian(40, 24)
    tokens, indices, scores, rank = svdprune.prune_varlen(
        x, *offsets, total_keep=8, max_seqlen=longest, solver=solver
    )
    assert (rank > 0).all()
    assert scores.isnan().nonzero().flatten().tolist() == [*range(40)[unwritten_scores]]
    assert (indices == -1).nonzero().flatten().tolist() == [*range(8)[unwritten_places]]
    assert torch.equal(tokens, x[indices].where(indices[:, None] >= 0, 0))


# In a process of its own each, where the driver has not been asked, nor the environment been read.
DRIVER_SCRIPT = """
import sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])
from emulated import device
from emulated_backend import in_place_of_the_operators
from samples import gaussian

import svdprune_ext as svdprune

library, x = Path(sys.argv[2]), gaussian(12, 28)
with in_place_of_the_operators(library) as state:
    with device(library, silent=True):
        print(*svdprune.diagnose(x).solver)
    print(*svdprune.diagnose(x).solver, state.waits)
"""


def test_a_driver_that_could_not_tell_is_asked_again(backend, emulated_operators):
    done = run(DRIVER_SCRIPT, emulated_operators, SVDPRUNE_DEBUG_SYNC="0")
    assert done == ["eigh", "tridiag 0"]


ENVIRONMENT_SCRIPT = """
import sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])
import torch
from emulated_backend import in_place_of_the_operators
from samples import gaussian

import svdprune_ext as svdprune

x, offsets = gaussian(3, 10, 14), torch.tensor([0, 10])
with in_place_of_the_operators(Path(sys.argv[2])) as state:
    svdprune.prune(x, 3, solver="eigh")
    print(state.waits, state.copies, state.tf32_products)
    svdprune.prune(x[:, :, :8].double(), 3)
    svdprune.prune(gaussian(1030, 8), 3, solver="tridiag")
    svdprune.prune(x, 3, select="pivoted")
    print(state.tf32_products)
    state.failing_image = 2
    for call in (
        lambda: svdprune.prune(x, 3, solver="eigh"),
        lambda: svdprune.leverage_scores(x[0] * float("nan")),
        lambda: svdprune.prune_varlen(
            x[0], offsets, offsets, total_keep=10, max_seqlen=9
        ),
    ):
        try:
            call()
        except ValueError as error:
            print(error)
    state.failing_image = -1
    state.refused_wait = 700  # cudaErrorIllegalAddress
    try:
        svdprune.prune(x, 3, solver="eigh")
    except RuntimeError as error:
        print(str(error).splitlines()[0])
"""


def test_settings_of_the_environment(backend, emulated_operators):
    done = run(
        ENVIRONMENT_SCRIPT, emulated_operators, SVDPRUNE_DEBUG_SYNC="1", SVDPRUNE_ALLOW_TF32="1"
    )
    must = "x must be finite and its eigendecomposition converge, got NaN, Inf or no convergence in"
    assert done == [
        "1 1 1",  # waits, copies, products in TF32
        "1",  # of float64, none, and none for others than "eigh"
        f"svdprune::prune: {must} image 2 of x",
        f"svdprune::leverage_scores: {must} x",
        "svdprune::prune_varlen: cu_seqlens must rise by 0 to max_seqlen = 9 an image, got 10 for image 0",
        "svdprune: waiting for SVDPRUNE_DEBUG_SYNC failed: an illegal memory access",
    ]


def run(script, library, **environment):
    """The lines that a script prints, whose arguments are the folder of the tests and the library."""
    done = subprocess.run(
        [sys.executable, "-c", script, Path(__file__).parent, library],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    )
    return done.stdout.splitlines()
