"""Arithmetic of the CUDA kernels that does not depend on CUDA, compiled for the CPU and called by ctypes."""

import ctypes
import os
import subprocess
from pathlib import Path

import numpy as np
from numpy.ctypeslib import ndpointer

DOUBLES = ndpointer(np.float64, flags="C")


def compiled(name: str, folder: Path) -> ctypes.CDLL:
    """The library of ``emulation/<name>.cpp``, built in a folder."""
    source = Path(__file__).resolve().parent / "emulation" / f"{name}.cpp"
    library = folder / f"{name}.so"
    compiler = os.environ.get("CXX", "c++")
    subprocess.run(
        [compiler, "-std=c++20", "-O1", "-fPIC", "-shared", source, "-o", library], check=True
    )
    return ctypes.CDLL(str(library))
