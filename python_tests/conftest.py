"""What several test files share and is built once."""

import pytest
from emulated import build


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    """The CUDA kernels, compiled for the CPU; needs the headers of CUDA."""
    return build(tmp_path_factory.mktemp("emulated"))
