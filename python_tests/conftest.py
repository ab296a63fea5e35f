"""What several test files share and is built once."""

import os

# Workers that run side by side share the cores: before torch is imported, which takes all of them else.
if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 0)):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))

import pytest
from emulated import build


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    """The CUDA kernels, compiled for the CPU; needs the headers of CUDA."""
    return build(tmp_path_factory.mktemp("emulated"))
