"""The comparison of eigensolvers: its calls of cuSOLVER, on the stand-in for it, and its table."""

import ctypes
import sys
from pathlib import Path

import pytest
import torch
from samples import gaussian

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import eigensolvers, gpu_document


@pytest.mark.parametrize("backend", ["emulated"], indirect=True)
@pytest.mark.parametrize("name", ["XsyevBatched", "Xsyevd"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cusolver_is_called_as_it_must_be(backend, emulated_operators, name, dtype):
    stream = ctypes.CDLL(str(emulated_operators)).emulated_stream
    stream.restype = ctypes.c_void_p
    solver = eigensolvers.CuSolver(stream(), str(emulated_operators))
    x = gaussian(30, 40, dtype=dtype)
    gram = x @ x.mT
    run = solver.decomposition(name, gram)
    for _ in range(2):  # it leaves what it is given as it was
        values, vectors = run()
        torch.testing.assert_close(values, torch.linalg.eigvalsh(gram), atol=1e-3, rtol=1e-4)
        torch.testing.assert_close(vectors.mT * values @ vectors, gram, atol=1e-3, rtol=1e-4)
    backend.state.refused_solve = 7
    with pytest.raises(RuntimeError, match=f"cusolverDn{name} failed with cuSOLVER status 7"):
        run()


def test_the_gram_matrix_is_a_photographs():
    gram = eigensolvers.gram_matrix(64, torch.float32)
    assert gram.shape == (64, 64)
    assert torch.equal(gram, gram.mT)


def test_the_table_compares_with_the_batched_one():
    row = {
        "side": 576,
        "dtype": "float64",
        "eager": {"XsyevBatched": 0.004, "Xsyevd": 0.002},  # made up
        "rounds": {},
        "skipped": {},
    }
    assert gpu_document.eigensolver_cells(row) == [
        "576",
        "float64",
        "4 ms",
        "2 ms (0.5x)",
        "-",
    ]
    machine = dict.fromkeys(("gpu", "driver", "torch", "svdprune", "revision", "date"), "made up")
    text = gpu_document.tables({"machine": machine, "eigensolvers": [row]})
    assert "| side of the Gram matrix | dtype | XsyevBatched | Xsyevd | torch.linalg.eigh |" in text
    assert "| 576 | float64 | 4 ms | 2 ms (0.5x) | - |" in text
