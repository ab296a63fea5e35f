"""The tridiagonal solver: its stages against NumPy, and the whole on many random spectra."""

import os

import numpy as np
import pytest
import torch
from agreement import assert_agrees
from hard_cases import hard_case, plateaus
from samples import behind_a_coupling, gaussian, orthonormal, power_law, sparse, with_spectrum

import svdprune_ext as svdprune
from svdprune_ext._load import load_native

native = load_native()


def tridiagonal(diagonal, coupling):
    off = coupling[: len(diagonal) - 1]
    return np.diag(diagonal) + np.diag(off, 1) + np.diag(off, -1)


def symmetric(n, seed=0):
    x = gaussian(n, n + 5, seed=seed).numpy()
    return x @ x.T


# Around whole blocks on the diagonal.
@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 33, 48, 49, 130, 300])
def test_tridiagonalisation_keeps_the_eigenvalues(n):
    a = symmetric(n)
    diagonal, coupling, steps = native.tridiagonalise(a, n + 1)
    assert steps == n
    assert coupling[-1] == 0
    expected = np.linalg.eigvalsh(a.astype(np.float64))
    got = np.linalg.eigvalsh(tridiagonal(diagonal, coupling))
    assert np.abs(got - expected).max() < 2e-6 * expected[-1]


# Around whole blocks of reflectors.
@pytest.mark.parametrize("n", [1, 2, 3, 32, 33, 34, 65, 130, 200])
def test_the_back_transform_is_the_product_of_the_reflectors(n):
    a = symmetric(n)
    q = native.back_transform(a).astype(np.float64)
    assert np.abs(q.T @ q - np.eye(n)).max() < 2e-6
    diagonal, coupling, _ = native.tridiagonalise(a, n + 1)
    assert (
        np.abs(q.T @ a @ q - tridiagonal(diagonal, coupling)).max() < 3e-6 * np.abs(a).sum(0).max()
    )


@pytest.mark.parametrize("most", [1, 2, 9, 20])
def test_stopping_early_gives_the_leading_block(most):
    a = symmetric(40)
    whole = native.tridiagonalise(a, 41)
    diagonal, coupling, steps = native.tridiagonalise(a, most)
    assert steps == most
    assert np.array_equal(diagonal, whole[0][:most])
    assert np.array_equal(coupling, whole[1][:most])


def test_tridiagonalisation_is_lanczos_from_the_first_coordinate():
    a = symmetric(30).astype(np.float64)
    diagonal, coupling, _ = native.tridiagonalise(a, 6)
    q, before, beta = np.eye(30)[0], np.zeros(30), 0.0
    for k in range(6):
        w = a @ q - beta * before
        assert diagonal[k] == pytest.approx(q @ w, rel=1e-4)
        w -= (q @ w) * q
        before, beta = q, np.linalg.norm(w)
        assert abs(coupling[k]) == pytest.approx(beta, rel=1e-3)
        q = w / beta


def matrices():
    rng = np.random.default_rng(0)
    yield "random", rng.normal(size=50), rng.normal(size=50)
    yield "graded", 10.0 ** -np.arange(30), 10.0 ** -(np.arange(30) + 0.5)
    yield "wilkinson", np.abs(np.arange(21) - 10.0), np.ones(21)
    yield "laplace", np.full(60, 2.0), np.full(60, -1.0)
    yield "split", np.arange(12.0), np.array([1.0, 0, 2, 0, 0, 1, 1, 0, 3, 1, 1, 9])
    yield "one", np.array([3.0]), np.array([7.0])
    yield "zero", np.zeros(5), np.zeros(5)
    yield "large", rng.normal(size=300), rng.normal(size=300)
    yield "equal", np.ones(70), np.zeros(70)
    yield "glued", np.tile(np.abs(np.arange(21) - 10.0), 9), np.tile([1.0] * 20 + [1e-9], 9)
    yield "low rank", np.r_[rng.uniform(1, 2, 9), np.zeros(240)], np.r_[np.ones(8), np.zeros(241)]
    yield "huge", rng.normal(size=20) * 1e120, rng.normal(size=20) * 1e120


@pytest.mark.parametrize(
    ("diagonal", "coupling"), [pytest.param(d, c, id=name) for name, d, c in matrices()]
)
def test_tridiagonal_eigenpairs(diagonal, coupling):
    values, vectors = native.tridiagonal_eigen(diagonal, coupling)
    t = tridiagonal(diagonal, coupling)
    size = np.abs(t).max() or 1.0
    assert np.abs(values - np.linalg.eigvalsh(t)[::-1]).max() <= 1e-14 * len(t) * size
    assert np.abs(np.linalg.norm(vectors, axis=0) - 1).max() < 1e-12
    assert np.abs(t @ (vectors / size) - vectors * (values / size)).max() < 1e-12
    gaps = -np.diff(values)
    for j in np.flatnonzero(gaps > 1e-3 * size):
        assert abs(vectors[:, j] @ vectors[:, j + 1]) < 1e-10


def hidden(n, eigenvalues, seed=0):
    """A matrix with the given leading eigenvalues above a bulk in [0, 0.5]."""
    values = np.r_[eigenvalues, np.linspace(0, 0.5, n - len(eigenvalues))]
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(n, n)))
    return (q * values) @ q.T


@pytest.mark.parametrize("n", [2, 3, 9, 40, 300])
def test_a_matrix_without_large_eigenvalues_is_recognised(n):
    a = hidden(n, [])
    assert native.lies_below(a, 1.0)
    assert not native.lies_below(a, 0.499)


@pytest.mark.parametrize("seed", range(8))
def test_a_hidden_eigenvalue_is_found_by_the_probe(seed):
    a = hidden(300, [1.01], seed=seed)
    assert np.sqrt((a**2).sum()) > 2  # the bound from trace and norm does not settle it
    assert not native.lies_below(a, 1.0)
    assert native.lies_below(a, 1.5)


@pytest.mark.parametrize("token", [0, 7, 299])
def test_a_hidden_eigenvector_in_one_token_is_found(token):
    a = hidden(300, [])
    a[token], a[:, token] = 0, 0
    a[token, token] = 1.01
    assert not native.lies_below(a, 1.0)
    assert native.lies_below(a, 1.1)


def probe(n):
    """The probe of csrc/hidden_eigenvalues.h, of unit length."""
    z = np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x = (z ^ (z >> np.uint64(31))) * 2.0**-64 - 0.5
    return x / np.linalg.norm(x)


@pytest.mark.parametrize("overlap", [1e-3, 1e-4, 1e-5])
def test_a_hidden_eigenvector_that_the_probe_hardly_meets_is_found(overlap):
    x = probe(300)
    u = np.random.default_rng(0).normal(size=300)
    u -= x @ u * x
    u = overlap * x + np.sqrt(1 - overlap**2) * u / np.linalg.norm(u)
    others = np.eye(300) - np.outer(u, u)
    assert not native.lies_below(others @ hidden(300, []) @ others + 1.01 * np.outer(u, u), 1.0)


@pytest.mark.parametrize("part", range(10))
@pytest.mark.parametrize("make", [hard_case, plateaus])
def test_random_spectra(make, part):
    # SVDPRUNE_CASES=10000 runs as many of each kind.
    cases = int(os.environ.get("SVDPRUNE_CASES", "400"))
    for seed in range(part, cases, 10):
        x, options = make(seed)
        options["solver"] = "tridiag"
        out = svdprune.prune(x, min(16, len(x)), **options)
        try:
            assert_agrees(x, out.scores, out.rank, out.indices, options=options)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}, {list(x.shape)}, {options}: {error}") from error


def test_a_narrow_cut_between_tokens_that_stand_out_is_solved_in_float64():
    # Two outliers of nearly the same norm, at a small angle: the pair at the cut lives in them alone.
    x = 0.001 * gaussian(40, 60)
    x[3], x[17] = 0, 0
    x[3, 0] = x[17, 1] = 1
    x[3, 1] = 1e-5
    found = svdprune.leverage_scores(x, rank=1)
    assert_agrees(x, found.scores, found.rank, options={"rank": 1})
    assert svdprune.diagnose(x, rank=1).refined
    assert not svdprune.diagnose(x, rank=2).refined
    assert not svdprune.diagnose(x, rank=1, solver="eigh").refined


def test_a_narrow_cut_between_plateaus_is_solved_in_float64():
    # Each of the 150 x 226 pairs across the cut mixes by little.
    energy = torch.tensor([1.0] * 200 + [2e-5] * 150 + [4e-6] * 226)
    x = with_spectrum(576, 1024, energy)
    found = svdprune.leverage_scores(x, rank=350)
    assert_agrees(x, found.scores, found.rank, options={"rank": 350})
    assert svdprune.diagnose(x, rank=350).refined
    assert not svdprune.diagnose(x, rank=200).refined


def test_a_narrow_cut_between_two_tokens_apart_is_solved_in_float64():
    # The pair at the cut has no token in common, as long as rounding does not mix it.
    x = 1e-5 * gaussian(200, 256)
    x[3], x[17] = 0, 0
    for less, refined in ((1.5e-5, True), (1e-4, False)):
        x[3, 0], x[17, 1] = 1, 1 - less
        found = svdprune.leverage_scores(x, rank=1)
        assert_agrees(x, found.scores, found.rank, options={"rank": 1})
        assert svdprune.diagnose(x, rank=1).refined.item() == refined


def test_a_direction_with_hardly_any_energy_is_solved_in_float64_on_the_features_side():
    x = with_spectrum(120, 20, torch.cat([torch.linspace(1, 0.1, 19), torch.tensor([5e-6])]))
    found = svdprune.leverage_scores(x, rank=20)
    assert_agrees(x, found.scores, found.rank, options={"rank": 20})
    assert svdprune.diagnose(x, rank=20).refined
    assert not svdprune.diagnose(x, rank=19).refined


@pytest.mark.parametrize("seed", range(12))
def test_a_weak_direction_of_one_token_counts_in_full_on_the_features_side(seed):
    # Its singular value alone is too inaccurate to divide by.
    left = torch.block_diag(torch.ones(1, 1, dtype=torch.float64), orthonormal(119, 19, seed))
    energy = torch.cat([torch.tensor([1.4e-4]), torch.linspace(1, 0.5, 19)]).double()
    x = (left * energy.sqrt() @ orthonormal(20, 20, seed + 1).mT).float()
    scores, _ = svdprune.leverage_scores(x, rank=20)
    torch.testing.assert_close(scores[0], torch.tensor(1.0), atol=1e-5, rtol=0)


@pytest.mark.parametrize("variance", [0.6, 0.9, 0.99])
def test_the_smaller_projector_gives_the_same_scores(variance):
    # Above half of the directions the solver takes those that are not kept.
    x = gaussian(60, 300)
    out = svdprune.leverage_scores(x, variance=variance, solver="tridiag")
    other = svdprune.leverage_scores(x, variance=variance, solver="eigh")
    assert out.rank == other.rank
    torch.testing.assert_close(out.scores, other.scores, atol=1e-5, rtol=0)


def test_diagnose_tells_how_each_image_was_solved():
    few = with_spectrum(200, 256, power_law(200, 2.4), seed=1)
    flat = gaussian(200, 256)
    found = svdprune.diagnose(torch.stack([few, flat, torch.zeros(200, 256)]))
    assert found.solver == ["tridiag", "tridiag", "none"]
    assert found.size.tolist() == [200, 200, 200]
    assert found.steps[0] < 100
    assert found.steps[1] == 200
    assert (
        found.rank.tolist()
        == svdprune.leverage_scores(torch.stack([few, flat, 0 * flat])).rank.tolist()
    )
    assert not found.refined.any()


def test_eigh_takes_over_where_eigenvectors_cannot_be_told_apart():
    found = svdprune.diagnose(torch.eye(20, 32))
    assert found.solver == ["eigh"]
    assert found.steps == found.size == 20
    assert found.refined


# Whatever the steps at which the solver looks for its end.
@pytest.mark.parametrize("place", range(1, 24))
@pytest.mark.parametrize("options", [{"rank": 1}, {"variance": 0.3}])
def test_an_eigenvalue_behind_a_coupling_is_not_missed(place, options):
    x = behind_a_coupling(60, place)
    _, indices, scores, rank = svdprune.prune(x, 2, **options)
    assert_agrees(x, scores, rank, indices, options=options)


@pytest.mark.parametrize("seed", range(60))
def test_sparse_features(seed):
    x = sparse(33 + seed, 20 + 90 * (seed % 2), seed)
    for variance in (0.9, 0.999):
        _, indices, scores, rank = svdprune.prune(x, 8, variance=variance)
        assert_agrees(x, scores, rank, indices, options={"variance": variance})


def test_float32_that_lapack_gives_up_is_solved_in_float64():
    x = torch.zeros(40, 40)
    x[0, 0] = 1
    x[1:, 1:] = 1e-21 * gaussian(39, 39)
    found = svdprune.diagnose(x, solver="eigh")
    assert (found.solver, found.rank) == (["eigh"], 1)
    assert svdprune.prune(x, 1, solver="eigh").indices == 0


def test_float64_goes_to_eigh_unless_asked():
    x = gaussian(20, 30, dtype=torch.float64)
    assert svdprune.diagnose(x).solver == ["eigh"]
    assert svdprune.diagnose(x, solver="tridiag").solver == ["tridiag"]
