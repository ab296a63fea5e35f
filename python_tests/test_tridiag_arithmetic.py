"""The arithmetic of the kernel eig_select, element by element on the CPU, against NumPy."""

import ctypes

import numpy as np
import pytest
from arithmetic_library import DOUBLES, compiled
from numpy.ctypeslib import ndpointer

INT, DOUBLE = ctypes.c_int, ctypes.c_double


@pytest.fixture(scope="module")
def arithmetic(tmp_path_factory):
    loaded = compiled("arithmetic", tmp_path_factory.mktemp("arithmetic"))
    for name, result, arguments in (
        (
            "householder_reduce",
            None,
            (INT, ndpointer(np.float32, flags="C"), DOUBLES, DOUBLES),
        ),
        ("householder_reflect", None, (INT, DOUBLES, DOUBLES, DOUBLES, DOUBLES)),
        ("sturm_above", INT, (INT, DOUBLES, DOUBLES, DOUBLE)),
        ("twisted", None, (INT, DOUBLES, DOUBLES, DOUBLE, DOUBLES)),
        ("ql", INT, (INT, DOUBLES, DOUBLES, DOUBLES, DOUBLE)),
        ("looks", INT, (INT, DOUBLE, INT, INT, DOUBLES, DOUBLES, ndpointer(np.int32, flags="C"))),
        ("rest_below", DOUBLE, (INT, DOUBLES, DOUBLES, DOUBLE, DOUBLE, DOUBLE)),
        ("rank_by_variance", INT, (DOUBLES, INT, DOUBLE, DOUBLE)),
        ("rank_standing_out", INT, (DOUBLES, INT)),
        ("flat_after", ctypes.c_bool, (INT, INT, INT, DOUBLE, DOUBLE)),
        ("eigenvalue_bound", DOUBLE, (DOUBLE, DOUBLE, INT)),
    ):
        function = getattr(loaded, name)
        function.restype, function.argtypes = result, arguments
    return loaded


def dense(diagonal, coupling):
    off = coupling[: len(diagonal) - 1]
    return np.diag(diagonal) + np.diag(off, 1) + np.diag(off, -1)


def positive(n, seed=0):
    """A positive semidefinite matrix of trace 1."""
    x = np.random.default_rng(seed).normal(size=(n, n + 5))
    a = x @ x.T
    return a / np.trace(a)


def matrices():
    """Tridiagonal ones with entries of at most 1: diagonal and coupling."""
    rng = np.random.default_rng(0)
    yield "random", rng.uniform(0, 0.6, 50), rng.uniform(-0.2, 0.2, 50)
    yield "graded", 10.0 ** -np.arange(30), 10.0 ** -(np.arange(30) + 0.5)
    yield "wilkinson", np.abs(np.arange(21) - 10.0) / 12, np.full(21, 1 / 12)
    yield "laplace", np.full(300, 0.5), np.full(300, -0.25)
    yield "split", np.arange(12) / 12, np.array([1.0, 0, 2, 0, 0, 1, 1, 0, 3, 1, 1, 9]) / 24
    yield "decoupled", np.full(200, 0.5), np.full(200, 1e-30)
    yield "one", np.array([0.3]), np.array([0.7])
    yield "zero", np.zeros(40), np.zeros(40)
    yield "identity", np.full(9, 1 / 9), np.zeros(9)


every_matrix = pytest.mark.parametrize(
    ("diagonal", "coupling"), [pytest.param(d, c, id=name) for name, d, c in matrices()]
)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 40])
def test_the_reduction_keeps_the_eigenvalues(arithmetic, n):
    a = positive(n).astype(np.float32)
    expected = np.linalg.eigvalsh(a.astype(np.float64))
    diagonal, coupling = np.zeros(n), np.zeros(n)
    arithmetic.householder_reduce(n, np.ascontiguousarray(a), diagonal, coupling)
    assert coupling[-1] == 0
    assert np.abs(np.linalg.eigvalsh(dense(diagonal, coupling)) - expected).max() < 1e-6


@pytest.mark.parametrize(
    "x", [[3.0, 4.0], [-3.0, 4.0, 1.0], [0.0, 1.0], [2.0, 0.0, 0.0], [5.0], [1e-12, 1e-13, 2e-13]]
)
def test_a_reflection_leaves_the_first_entry_alone(arithmetic, x):
    x = np.array(x)
    v, tau, beta = np.zeros(len(x)), np.zeros(1), np.zeros(1)
    arithmetic.householder_reflect(len(x), x, v, tau, beta)
    reflected = x - tau[0] * (v @ x) * v
    size = np.linalg.norm(x)
    assert abs(abs(beta[0]) - size) < 1e-15 * size
    assert np.abs(reflected - beta[0] * np.eye(len(x))[0]).max() < 1e-6 * size
    assert tau[0] * (v @ v) == pytest.approx(2 if np.any(x[1:]) else 0, rel=1e-6)


@every_matrix
def test_sturm_counts(arithmetic, diagonal, coupling):
    exact = np.linalg.eigvalsh(dense(diagonal, coupling))
    rng = np.random.default_rng(1)
    for x in np.concatenate([rng.uniform(-0.01, 1.01, 50), exact - 1e-9, exact + 1e-9]):
        if np.abs(exact - x).min() < 1e-14:
            continue
        above = arithmetic.sturm_above(len(diagonal), diagonal, coupling, x)
        assert above == (exact > x).sum()


@every_matrix
def test_twisted_vectors(arithmetic, diagonal, coupling):
    t = dense(diagonal, coupling)
    values = np.linalg.eigvalsh(t)
    vectors = np.zeros((len(t), len(t)))
    for j, value in enumerate(values):
        arithmetic.twisted(len(t), diagonal, coupling, value, vectors[j])
    assert np.abs(np.linalg.norm(vectors, axis=1) - 1).max() < 1e-12
    assert np.abs(vectors @ t - values[:, None] * vectors).max() < 1e-13
    for j in np.flatnonzero(np.diff(values) > 1e-3):
        assert abs(vectors[j] @ vectors[j + 1]) < 1e-10


@every_matrix
def test_ql_vectors_are_orthogonal_whatever_the_spectrum(arithmetic, diagonal, coupling):
    t = dense(diagonal, coupling)
    m = len(t)
    values, off, vectors = diagonal.copy(), coupling.copy(), np.zeros((m, m))
    assert 0 <= arithmetic.ql(m, values, off, vectors, 2e-16 * np.abs(t).max()) <= 3 * m
    assert np.abs(vectors.T @ vectors - np.eye(m)).max() < 1e-13 * m
    assert np.abs(t @ vectors - vectors * values).max() < 1e-14 * m
    assert np.abs(np.sort(values) - np.linalg.eigvalsh(t)).max() < 1e-14 * m


def looks(arithmetic, n, entry, variance=0.9, rank=0, coupling=1.0):
    """The steps at which the schedule looks where all of T's diagonal is ``entry``, of a trace of 1."""
    diagonal, off = np.full(n, float(entry)), np.full(n, coupling)
    steps = np.zeros(n, np.int32)
    count = arithmetic.looks(n, variance, rank, n - 1, diagonal, off, steps)
    return steps[:count].tolist()


def test_looks_come_when_the_energy_is_there_and_then_an_eighth_apart(arithmetic):
    after_30 = [51, 57, 64, 72, 81, 91, 102, 114, 128, 144, 162, 182, 204, 229, 257]
    assert looks(arithmetic, 576, 0.9 / 30 + 1e-9) == after_30
    assert looks(arithmetic, 576, 0.5)[:5] == [8, 12, 16, 20, 24]  # not before step 8
    assert looks(arithmetic, 576, 0.9 / 200 + 1e-9) == [288]  # not past half of the steps
    assert looks(arithmetic, 576, 0.9 / 240 + 1e-9) == []
    assert looks(arithmetic, 576, 0.9 / 30 + 1e-9, variance=1) == looks(
        arithmetic, 576, 1 / 34 + 1e-9, variance=1
    )
    assert looks(arithmetic, 15, 0.9) == []


def test_looks_for_a_given_rank_start_at_twice_that(arithmetic):
    assert looks(arithmetic, 576, 0, rank=30)[:3] == [60, 67, 75]
    assert looks(arithmetic, 576, 0, rank=2)[:3] == [8, 12, 16]
    assert looks(arithmetic, 576, 0, rank=200) == [288]
    assert looks(arithmetic, 576, 0, rank=281) == []


def test_the_first_look_comes_at_once_where_nothing_couples(arithmetic):
    assert looks(arithmetic, 576, 0.9 / 30 + 1e-9, coupling=1e-9)[:3] == [30, 34, 38]


@pytest.mark.parametrize(
    ("steps", "look", "captured", "variance", "flat"),
    [
        (16, 0, 0.04, 0.9, True),  # independent features
        (16, 0, 0.67, 0.9, False),  # twenty directions and noise
        (16, 0, 0.04, 0.03, False),  # so little that it may be there soon
        (24, 0, 0.10, 0.8, False),
        (36, 0, 0.88, 0.9, False),  # of rank 35
        (36, 0, 0.88, 0.95, True),  # of rank 91
        (37, 0, 0.88, 0.95, False),
        (100, 100, 0.95, 0.9, False),
        (288, 288, 0.95, 0.9, True),  # the last look has failed
        (260, 260, 0.95, 0.9, True),
        (288, 0, 0.89, 0.9, True),  # there will be none
        (240, 576, 0.90, 0.9, True),
        (289, 576, 0.95, 0.9, False),  # too late
        (9, 576, 0.95, 0.9, False),  # so few steps are soon done
    ],
)
def test_spectra_that_seem_flat(arithmetic, steps, look, captured, variance, flat):
    assert arithmetic.flat_after(steps, look, 576, captured, variance) == flat


@pytest.mark.parametrize("coupling", [0.0, 0.01, 0.1])
@pytest.mark.parametrize("leading", [[], [0.9, 0.8]])
def test_a_rest_at_its_limit_brings_an_eigenvalue_to_the_middle(arithmetic, leading, coupling):
    rng = np.random.default_rng(0)
    k, m = len(leading), len(leading) + 12
    diagonal = np.append(leading, rng.uniform(0, 0.2, 12))  # the leading ones touch nothing
    off = np.append(np.zeros(k), rng.uniform(-0.1, 0.1, 11))
    off = np.append(off, coupling)
    below = np.linalg.eigvalsh(dense(diagonal, off))[::-1][k]
    above = 0.8 if leading else below + 0.3
    limit = arithmetic.rest_below(m, diagonal, off, above, below, 0.0)
    joined = np.zeros((m + 5, m + 5))
    joined[:m, :m] = dense(diagonal, off)
    joined[m:, m:] = limit * np.eye(5)
    joined[m - 1, m] = joined[m, m - 1] = coupling
    largest = np.linalg.eigvalsh(joined)[::-1][k]
    assert largest == pytest.approx((above + below) / 2, abs=1e-12)
    assert arithmetic.rest_below(m, diagonal, off, above, below, 1e-3) == pytest.approx(
        limit - 2e-3 / (above - below)
    )


@pytest.mark.parametrize(
    ("variance", "total", "rank"),
    [(0.5, 10.0, 1), (0.9, 10.0, 3), (1.0, 10.0, 4), (0.9, 20.0, 6), (0.61, 10.0, 2)],
)
def test_rank_for_variance(arithmetic, variance, total, rank):
    values = np.array([6.0, 2.0, 1.5, 0.5, -1e-9])
    assert arithmetic.rank_by_variance(values, 5, variance, total) == rank


def test_directions_that_are_rounding_do_not_stand_out(arithmetic):
    values = np.array([1.0, 1e-3, 1e-5, 7e-6, 0.0])
    assert [arithmetic.rank_standing_out(values, r) for r in range(6)] == [0, 1, 2, 3, 3, 3]
    assert arithmetic.rank_standing_out(np.zeros(3), 3) == 0


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("n", [1, 2, 30])
def test_the_bound_lies_between_the_largest_eigenvalue_and_the_norm(arithmetic, n, seed):
    a = positive(n, seed)
    square = (a**2).sum()
    bound = arithmetic.eigenvalue_bound(np.trace(a), square, n)
    assert np.linalg.eigvalsh(a)[-1] * (1 - 1e-12) <= bound <= np.sqrt(square) * (1 + 1e-12)
