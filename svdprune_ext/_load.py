"""Finds and loads the libraries; one clear error when they are missing or do not fit torch."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import torch

_FOLDER = Path(__file__).resolve().parent
_BUILD = "pip install --no-build-isolation -e ."


def load_libraries(folder: Path = _FOLDER) -> bool:
    """Loads the op library ``_C`` and, where there is one and torch has CUDA, ``_C_cuda``.

    Args:
        folder: The folder that holds the libraries.

    Returns:
        Whether the CUDA backend was loaded.

    Raises:
        ImportError: A library is missing, or does not fit the installed torch.
    """
    _load(folder / "_C.so")
    cuda = folder / "_C_cuda.so"
    if torch.version.cuda is None or not cuda.exists():
        return False
    _load(cuda)
    return True


def load_native() -> ModuleType:
    """Imports ``_native``: build facts, and CPU stages for unit tests."""
    try:
        return importlib.import_module("svdprune_ext._native")
    except ImportError as error:
        raise ImportError(
            "svdprune_ext: _native is not built for this Python; rebuild svdprune_ext with "
            f"`{_BUILD}` in its source folder."
        ) from error


def _load(library: Path) -> None:
    if not library.exists():
        raise ImportError(
            f"svdprune_ext: {library.name} is not built; run `{_BUILD}` in the source folder of "
            "svdprune_ext, or install a wheel of it."
        )
    try:
        torch.ops.load_library(str(library))
    except OSError as error:
        raise ImportError(
            f"svdprune_ext: {library.name} does not fit torch {torch.__version__} (it needs torch >= "
            f"2.10 on the same platform); rebuild it with `{_BUILD}`. The loader said: {error}"
        ) from error
