"""Which steps the kernel purify takes, on the CPU: a spectrum at a time, eigenvalue by eigenvalue."""

import ctypes
import os
from dataclasses import dataclass

import numpy as np
import pytest
from arithmetic_library import DOUBLES, compiled

COUNT = ctypes.POINTER(ctypes.c_int)
NOISE = 1e-8  # of a product of 16-bit halves, by eigenvalue
CASES = int(os.environ.get("SVDPRUNE_CASES", "300"))


@dataclass
class Outcome:
    projector: np.ndarray  # its eigenvalues, in the order of the matrix's
    rank: int
    products: int
    starts: int


@pytest.fixture(scope="module")
def purify(tmp_path_factory):
    function = compiled("steering", tmp_path_factory.mktemp("steering")).purify_spectrum
    function.restype = None
    function.argtypes = (
        *(ctypes.c_int, DOUBLES, ctypes.c_double, ctypes.c_int, ctypes.c_double, ctypes.c_int),
        *(DOUBLES, COUNT, COUNT, COUNT),
    )

    def run(spectrum, variance, seed=0, noise=NOISE, rank=0):
        spectrum = np.ascontiguousarray(spectrum, dtype=np.float64)
        projector = np.zeros(len(spectrum))
        counts = [ctypes.c_int() for _ in range(3)]
        function(len(spectrum), spectrum, variance, rank, noise, seed, projector, *counts)
        return Outcome(projector, *(c.value for c in counts))

    return run


def random_spectrum(rng):
    """Descending: power laws, plateaus, geometric decay, clusters within 1e-5, exponential, Wishart, outliers
    in front of noise."""
    n = int(rng.integers(2, 700))
    index = np.arange(1, n + 1.0)
    kind = rng.integers(7)
    if kind == 0:
        energy = index ** -rng.uniform(0.05, 2)
    elif kind == 1:
        energy = np.r_[np.full(n // 2 + 1, rng.uniform(1, 50)), rng.random(n) + 1e-3][:n]
    elif kind == 2:
        energy = np.logspace(0, -rng.uniform(1, 6), n)
    elif kind == 3:
        energy = index ** -rng.uniform(0.05, 2)
        if n > 4:
            energy[1 : n // 2] = energy[1 : n // 2].mean() * (1 + 1e-5 * rng.random(n // 2 - 1))
    elif kind == 4:
        energy = rng.exponential(size=n)
    elif kind == 5:
        x = rng.standard_normal((n, n + rng.integers(n + 1)))
        energy = np.linalg.eigvalsh(x @ x.T).clip(0)
    else:
        energy = np.r_[rng.uniform(1, 1000, size=5), rng.random(n)]
    return np.sort(energy)[::-1]


def share_of(spectrum):
    return np.cumsum(spectrum) / spectrum.sum()


@pytest.mark.parametrize("seed", range(CASES))
def test_random_spectra(purify, seed):
    rng = np.random.default_rng(seed)
    spectrum = random_spectrum(rng)
    variance = rng.uniform(0.3, 0.995)
    share = share_of(spectrum)
    found = purify(spectrum, variance, seed)
    if np.abs(share - variance).min() > 1e-6:
        assert found.rank == np.searchsorted(share, variance) + 1
    after = spectrum[found.rank] if found.rank < len(spectrum) else 0
    gap = (spectrum[found.rank - 1] - after) / spectrum[0]
    expected = np.arange(len(spectrum)) < found.rank
    assert np.abs(found.projector - expected).max() < max(2e-4, 1e-6 / max(gap, 1e-30))
    assert abs(found.projector.sum() - found.rank) < 1e-2
    assert found.products <= 250


@pytest.mark.parametrize("variance", [0.5, 0.8, 0.9, 0.95, 0.99])
def test_a_flat_spectrum_takes_some_forty_products(purify, variance):
    x = np.random.default_rng(0).standard_normal((576, 1024))
    found = purify(np.linalg.eigvalsh(x @ x.T)[::-1], variance)
    assert found.starts == 1
    assert 30 < found.products < 60


def test_equal_eigenvalues_share_what_the_rank_leaves_them(purify):
    # Of six equal ones it takes two.
    spectrum = np.r_[np.full(3, 4.0), np.full(6, 1.0), np.full(10, 0.01)]
    found = purify(spectrum, share_of(spectrum)[4] - 1e-3, noise=0)
    assert found.rank == 5
    np.testing.assert_allclose(found.projector[:3], 1, atol=1e-4)
    np.testing.assert_allclose(found.projector[3:9], 2 / 6, atol=1e-3)
    np.testing.assert_allclose(found.projector[9:], 0, atol=1e-4)


@pytest.mark.parametrize("rank", [1, 2, 77, 299, 300])
def test_a_rank_that_is_asked_for(purify, rank):
    spectrum = np.sort(np.random.default_rng(rank).exponential(size=300))[::-1]
    found = purify(spectrum, 0.9, rank=rank)
    assert (found.rank, found.starts) == (rank, 1)
    np.testing.assert_allclose(found.projector, np.arange(300) < rank, atol=1e-3)
    assert abs(found.projector.sum() - rank) < 1e-3


def test_an_energy_that_is_just_reached_takes_no_further_direction(purify):
    spectrum = np.linspace(2, 1, 40)
    share = share_of(spectrum)[24]
    assert purify(spectrum, share).rank in (25, 26)  # a tie: rounding decides
    assert purify(spectrum, share - 2e-6).rank == 25
    assert purify(spectrum, share + 2e-6).rank == 26


def test_a_direction_that_lost_its_digits_is_found_from_a_new_start(purify):
    spectrum = np.r_[np.linspace(2, 1, 40), np.linspace(0.5, 0.4, 40)]
    share = share_of(spectrum)
    just_more = purify(spectrum, share[39] + 1e-5)  # a 41st that is needed by a thousandth
    assert just_more.rank == 41
    assert just_more.starts > 1
    np.testing.assert_allclose(just_more.projector, np.arange(80) < 41, atol=1e-4)
