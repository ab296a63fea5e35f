"""The C++ example: built with CMake as README.md says, it keeps the tokens that Python keeps."""

import os
import re
import shlex
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


def readme_lines():
    """The command that builds the program, and the one that runs it."""
    section = (ROOT / "README.md").read_text().partition("## From C++, without Python")[2]
    return re.search(r"```sh\n(.+)\n(.+?) *#.*\n```", section).groups()


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    if tool("cmake") is None or tool("make", "ninja") is None:
        pytest.skip("cmake is not installed")
    if tool(os.environ.get("CXX", "c++"), "g++", "clang++") is None:
        pytest.skip("no C++ compiler is installed")
    folder = tmp_path_factory.mktemp("example")
    (folder / "examples").symlink_to(ROOT / "examples")
    python = folder / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    python.chmod(0o755)
    command, started = readme_lines()
    environment = {**os.environ, "PATH": PATH}
    if not tool("make"):
        environment["CMAKE_GENERATOR"] = "Ninja"
    result = subprocess.run(
        command, shell=True, cwd=folder, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return folder / started.split()[0]


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
    for keep in ("0", "-3", "many", "3x", ""):
        refused = run(program, LIBRARY, keep)
        assert refused.returncode == 2
        assert f"keep must be a number of at least 1, got {keep}" in refused.stderr
    too_many = run(program, LIBRARY, 577)
    assert too_many.returncode == 1
    if TORCH >= (2, 13):  # before, torch keeps it back
        assert "svdprune::prune: keep must be in [0, N] = [0, 576], got 577" in too_many.stderr
