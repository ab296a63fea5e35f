"""The solver "purify": the projector against NumPy, and the solvers against each other."""

import os

import numpy as np
import pytest
import torch
from agreement import FLOAT32, FLOAT32_EIGH, assert_agrees, oracle_of, tolerance
from hard_cases import hard_case
from samples import gaussian, power_law, with_spectrum

import svdprune_ext as svdprune
from bench.hard_suite import suite
from svdprune_ext._load import load_native

native = load_native()


def symmetric(eigenvalues, seed=0):
    """A matrix of these eigenvalues, and its eigenvectors."""
    n = len(eigenvalues)
    q = np.linalg.qr(np.random.default_rng(seed).normal(size=(n, n))).Q
    a = (q * eigenvalues) @ q.T
    return (a + a.T) / 2, q


def assert_spans(basis, vectors, atol):
    assert basis.shape == vectors.shape
    assert np.abs(basis.T @ basis - np.eye(basis.shape[1])).max() < 1e-10
    assert np.abs(basis @ basis.T - vectors @ vectors.T).max() < atol


SPECTRA = {
    "power": np.arange(1, 31.0) ** -1,
    "flat": np.linspace(2, 1, 30),
    "steep": 10.0 ** -np.arange(9),
    "one": np.array([3.0]),
    "huge": np.arange(1, 21.0) ** -2 * 1e140,
    "deficient": np.array([3.0, 2, 1, 0, 0, 0, 0]),
}


@pytest.mark.parametrize("name", SPECTRA)
def test_every_rank_by_count_and_by_energy(name):
    eigenvalues = SPECTRA[name]
    gram, vectors = symmetric(eigenvalues)
    energy = np.concatenate([[0], eigenvalues.cumsum()]) / eigenvalues.sum()
    for rank in range(1, np.count_nonzero(eigenvalues) + 1):
        gap = (eigenvalues[rank - 1] - np.append(eigenvalues, 0)[rank]) / eigenvalues[0]
        basis, products = native.purify(gram, rank=rank)
        assert_spans(basis, vectors[:, :rank], 1e-11 + 1e-15 / gap)
        assert products < 150
        for share in (0.001, 0.5, 0.999):
            variance = energy[rank - 1] + share * (energy[rank] - energy[rank - 1])
            same, products = native.purify(gram, variance)
            assert_spans(same, vectors[:, :rank], 1e-11 + 1e-15 / gap)
            assert products < 450


@pytest.mark.parametrize(("variance", "rank"), [(0.5, 1), (0.75, 2), (0.875, 3), (1.0, 4)])
def test_a_threshold_that_is_reached_exactly(variance, rank):
    basis, _ = native.purify(np.diag([8.0, 4, 2, 2]), variance)
    assert basis.shape == (4, rank)


@pytest.mark.parametrize("gap", [1e-3, 1e-6, 1e-9, 1e-12])
@pytest.mark.parametrize("share", [1e-8, 0.5, 1 - 1e-5])
def test_a_narrow_cut(gap, share):
    eigenvalues = np.concatenate([[3, 2], 1 - gap * np.arange(4), np.linspace(0.5, 0.1, 18)])
    gram, vectors = symmetric(eigenvalues)
    variance = (eigenvalues[:3].sum() + share * eigenvalues[3]) / eigenvalues.sum()
    basis, products = native.purify(gram, variance)
    assert_spans(basis, vectors[:, :4], 1e-13 + 1e-15 / gap)
    assert products < 450


@pytest.mark.parametrize("rank", [2, 3, 4, 5])
def test_a_cut_through_a_multiple_eigenvalue(rank):
    eigenvalues = np.array([4.0, 3, 1, 1, 1, 1, 0.5, 0.25])
    gram, vectors = symmetric(eigenvalues)
    variance = (eigenvalues[:rank].sum() - 0.3) / eigenvalues.sum()
    for basis, _ in (native.purify(gram, rank=rank), native.purify(gram, variance)):
        assert basis.shape == (8, rank)
        assert np.abs(basis.T @ basis - np.eye(rank)).max() < 1e-10
        # All of the directions above the eigenvalue, and none below.
        inside = basis @ basis.T
        assert np.abs(inside @ vectors[:, :2] - vectors[:, :2]).max() < 1e-10
        assert np.abs(inside @ vectors[:, 6:]).max() < 1e-10
        assert np.trace(inside @ gram) == pytest.approx(eigenvalues[:rank].sum(), abs=1e-10)


def test_products_have_a_limit():
    gram, _ = symmetric(SPECTRA["power"])
    basis, products = native.purify(gram)
    again, _ = native.purify(gram, most_products=products)
    assert np.array_equal(basis, again)
    with pytest.raises(RuntimeError, match="svdprune"):
        native.purify(gram, most_products=products - 1)


@pytest.mark.parametrize("part", range(4))
def test_random_spectra(part):
    # SVDPRUNE_CASES=10000 runs as many.
    cases = int(os.environ.get("SVDPRUNE_CASES", "80"))
    for seed in range(part, cases, 4):
        x, options = hard_case(seed, largest=120)
        x = x.double() if seed % 2 else x
        options["solver"] = "purify"
        if seed % 5 == 0:
            # Of directions that are there: it counts every one that it is asked for.
            wide = x.double() - x.double().mean(0) * options["center"]
            options["rank"] = 1 + seed % max(1, int(torch.linalg.matrix_rank(wide)))
        out = svdprune.prune(x, min(16, len(x)), **options)
        try:
            assert_agrees(x, out.scores, out.rank, out.indices, options=options)
            found = svdprune.diagnose(x, **options)
            assert found.solver == ["purify"]
            assert 1 <= found.steps <= 600
        except AssertionError as error:
            raise AssertionError(f"seed {seed}, {list(x.shape)}, {options}: {error}") from error


@pytest.mark.parametrize("variance", [0.8, 0.99])
@pytest.mark.parametrize(
    "features", suite(144, 192, tall=200), ids=lambda s: f"{s.name} {s.tokens}"
)
def test_solvers_agree_on_the_hard_suite(features, variance):
    x = features.features()
    check = svdprune.leverage_scores(x, variance=variance, solver="purify")
    oracle = oracle_of(x, variance)
    for solver, promise in (("tridiag", FLOAT32), ("eigh", FLOAT32_EIGH)):
        other = svdprune.leverage_scores(x, variance=variance, solver=solver)
        assert other.rank == check.rank
        allowed = tolerance(oracle, int(check.rank), promise)
        torch.testing.assert_close(other.scores, check.scores, atol=allowed, rtol=0)
    assert svdprune.diagnose(x, variance=variance, solver="purify").solver == ["purify"]


def test_diagnose_counts_products_and_names_the_solver():
    x = torch.stack([with_spectrum(60, 30, power_law(30, 2)), torch.zeros(60, 30)])
    found = svdprune.diagnose(x, solver="purify")
    assert found.solver == ["purify", "none"]
    assert found.size.tolist() == [60, 60]
    assert 20 < found.steps[0] < 150
    assert found.steps[1] == 0


def test_a_rank_beyond_the_directions_with_energy_is_counted_in_full():
    x = gaussian(4, 12).repeat(5, 1)
    scores, rank = svdprune.leverage_scores(x, rank=9, solver="purify")
    assert rank == 9
    assert scores.sum().item() == pytest.approx(9, abs=1e-5)
    assert ((scores >= 0) & (scores <= 1)).all()


@pytest.mark.parametrize("seed", [268, 269, 270, 271])
def test_no_direction_of_rounding_is_counted_for_all_of_the_energy(seed):
    x = torch.randn(31, 2, generator=torch.Generator().manual_seed(seed))
    scores, rank = svdprune.leverage_scores(x, variance=1.0, solver="purify")
    assert rank == 2
    torch.testing.assert_close(scores.sum(), torch.tensor(2.0), atol=1e-5, rtol=0)
