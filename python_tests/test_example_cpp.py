"""The C++ example: built with CMake as its README says, it keeps the tokens that Python keeps."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import svdprune_ext

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = Path(svdprune_ext.__file__).parent / "_C.so"
PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])

TORCH = tuple(int(part) for part in torch.__version__.split(".")[:2])


def tool(*names):
    return next((found for name in names if (found := shutil.which(name, path=PATH))), None)


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    cmake, ninja = tool("cmake"), tool("ninja")
    if cmake is None:
        pytest.skip("cmake is not installed")
    if tool(os.environ.get("CXX", "c++"), "g++", "clang++") is None:
        pytest.skip("no C++ compiler is installed")
    build = tmp_path_factory.mktemp("example")
    configure = [cmake, "-S", ROOT / "examples/cpp", "-B", build]
    configure += ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"] if ninja else []
    configure += [f"-DPython_EXECUTABLE={sys.executable}"]
    for command in (configure, [cmake, "--build", build]):
        result = subprocess.run(command, capture_output=True, text=True)
        assert result.returncode == 0, result.stdout + result.stderr
    return build / "prune_image"


def run(program, *arguments):
    return subprocess.run(
        [program, *map(str, arguments)], capture_output=True, text=True, check=False
    )


def features():
    """What the program computes for itself, to the bit."""
    i = torch.arange(576 * 1024)
    hashed = (i * 2654435761) & 0xFFFFFFFF
    hashed = ((hashed ^ (hashed >> 15)) * 2246822519) & 0xFFFFFFFF
    values = ((hashed >> 8).float() / 2**24 - 0.5) / (1 + i % 1024).float()
    return values.view(576, 1024)


@pytest.mark.parametrize(("keep", "select"), [(32, "topk"), (576, "topk"), (32, "pivoted")])
def test_it_keeps_what_python_keeps(program, keep, select):
    result = run(program, LIBRARY, keep, select)
    assert result.returncode == 0, result.stderr
    rank, kept = (line.split()[1:] for line in result.stdout.splitlines())
    expected = svdprune_ext.prune(features(), keep, select=select)
    assert [int(i) for i in kept] == expected.indices.tolist()
    assert int(rank[0]) == int(expected.rank)


def test_it_runs_without_python(program):
    for file in (program, LIBRARY):
        needed = subprocess.run(["ldd", file], capture_output=True, text=True, check=True)
        assert "libtorch_cpu" in needed.stdout
        assert "python" not in needed.stdout.replace(str(Path(torch.__file__).parent), "")


def test_a_wrong_argument_is_an_error(program, tmp_path):
    assert run(program).returncode == 2
    missing = run(program, tmp_path / "missing.so")
    assert missing.returncode == 2
    assert "missing.so" in missing.stderr
    too_many = run(program, LIBRARY, 577)
    assert too_many.returncode == 1
    if TORCH >= (2, 13):  # before, torch keeps it back
        assert "svdprune::prune: keep must be in [0, N] = [0, 576], got 577" in too_many.stderr
