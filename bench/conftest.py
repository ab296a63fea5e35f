"""The ``--quick`` option of the benchmarks."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="a fifth of the rounds, one image a call")


@pytest.fixture(scope="session")
def quick(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--quick"))


@pytest.fixture(scope="session")
def budget(quick: bool) -> float:
    """Seconds that a candidate may be timed for."""
    return 0.4 if quick else 2.0
