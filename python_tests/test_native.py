"""The native stages one by one, against NumPy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import gaussian, power_law, with_spectrum

import svdprune_ext as svdprune
from svdprune_ext._load import load_native
from svdprune_ext.reference import oracle_pivoted

native = load_native()
quick = settings(max_examples=60, deadline=None, derandomize=True)
INSTRUCTION_SETS = ["baseline", "avx2", "avx512"]
SHAPES = [(7, 12), (12, 7), (70, 300), (300, 70), (1, 5), (5, 1)]
BEST = INSTRUCTION_SETS.index(native.build_info()["instruction_set"])
every_instruction_set = pytest.mark.parametrize(
    "instruction_set",
    [
        pytest.param(
            name,
            marks=pytest.mark.skipif(i > BEST, reason=f"has {INSTRUCTION_SETS[BEST]} at best"),
        )
        for i, name in enumerate(INSTRUCTION_SETS)
    ],
)
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


def relative_error(a, b):
    return np.abs(a - b).max() / np.abs(b).max()


def test_build_info():
    info = native.build_info()
    assert info.keys() == {
        "version",
        "git_revision",
        "compiler",
        "build_type",
        "torch_built_with",
        "torch_target",
        "instruction_set",
        "cuda",
        "cuda_architectures",
    }
    assert info["instruction_set"] in INSTRUCTION_SETS
    assert info["version"] == svdprune.__version__
    assert info["torch_target"] == "2.10"
    assert isinstance(info["cuda"], bool)
    assert all(isinstance(v, str) for k, v in info.items() if k != "cuda")


@every_shape
@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("tokens_side", [True, False])
def test_gram(shape, tokens_side, center):
    x = gaussian(*shape).numpy()
    gram = native.gram(x, tokens_side, center)
    wide = x.astype(np.float64)
    if center:
        wide = wide - wide.mean(0)
    expected = wide @ wide.T if tokens_side else wide.T @ wide
    assert gram.dtype == np.float32
    if not expected.any():
        assert not gram.any()
        return
    assert relative_error(gram, expected) < 1e-5


@pytest.mark.parametrize(
    "shape",
    [
        (1, 1),
        (5, 3),
        (24, 256),
        (50, 300),
        (97, 17),
        (130, 513),
        (50, 1024),
        (97, 1025),
        (20, 1700),
    ],
)
@every_instruction_set
def test_rank_k_product(instruction_set, shape):
    x = gaussian(*shape).numpy()
    expected = np.tril(x.astype(np.float64) @ x.T.astype(np.float64))
    assert relative_error(native.rank_k(x, instruction_set), expected) < 1e-6


@pytest.mark.parametrize("n", [1, 7, 16, 33, 128, 149])
@every_instruction_set
def test_symmetric_product(instruction_set, n):
    a, x = gaussian(n, n), gaussian(n)
    a = a + a.T
    expected = a.double() @ x.double()
    product = native.symmetric_product(a.numpy(), x.numpy(), instruction_set)
    assert relative_error(product, expected.numpy()) < 1e-6


@pytest.mark.parametrize("scale", [1e-30, 1e25])
def test_gram_is_scaled_by_a_power_of_two_where_squares_do_not_fit(scale):
    x = (gaussian(9, 14) * scale).numpy()
    wide = x.astype(np.float64)
    gram = native.gram(x, True).astype(np.float64)
    expected = wide @ wide.T
    factor = gram[0, 0] / expected[0, 0]
    assert relative_error(gram, factor * expected) < 1e-5
    mantissa, _ = np.frexp(np.sqrt(factor))
    assert mantissa == pytest.approx(0.5, rel=1e-5) or mantissa == pytest.approx(1, rel=1e-5)


@every_shape
@pytest.mark.parametrize("variance", [0.5, 0.9])
def test_spectrum(shape, variance):
    x = gaussian(*shape).numpy()
    n = min(shape)
    eigenvalues, basis = native.spectrum(x, variance)
    wide = x.astype(np.float64)
    gram = wide @ wide.T if shape[0] <= shape[1] else wide.T @ wide
    expected = np.linalg.eigh(gram).eigenvalues
    rank = len(eigenvalues)
    assert basis.shape == (n, rank)
    assert (np.diff(eigenvalues) <= 0).all()
    assert relative_error(eigenvalues, expected[::-1][:rank]) < 1e-5
    share = expected[::-1].cumsum() / expected.sum()
    assert rank == np.searchsorted(share, variance) + 1
    assert np.abs(basis.T @ basis - np.eye(rank)).max() < 1e-5
    assert np.abs(gram @ basis - basis * eigenvalues).max() < 1e-4 * expected[-1]


def test_spectrum_of_a_steep_power_law():
    x = with_spectrum(40, 60, power_law(40, 3)).numpy()
    eigenvalues, _ = native.spectrum(x, 0.99999)
    expected = power_law(40, 3).numpy()[: len(eigenvalues)]
    assert np.abs(eigenvalues - expected).max() < 1e-6


def test_spectrum_of_zeros_is_empty():
    eigenvalues, basis = native.spectrum(np.zeros((4, 6), np.float32), 0.9)
    assert eigenvalues.shape == (0,)
    assert basis.shape == (4, 0)


@pytest.mark.parametrize(
    ("eigenvalues", "variance", "rank"),
    [
        ([1, 1, 1, 1], 0.5, 2),
        ([1, 1, 1, 1], 0.51, 3),
        ([1, 1, 1, 1], 1.0, 4),
        ([0, 0, 1, 3], 0.75, 1),
        ([0, 0, 1, 3], 0.76, 2),
        ([0, 0, 1, 3], 1.0, 2),
        ([5], 0.01, 1),
        ([-1e-3, 0, 1, 1], 1.0, 2),  # negative by rounding: counts as zero
        ([0, 0], 0.9, 1),
        ([], 0.9, 1),
    ],
)
def test_rank_for_variance(eigenvalues, variance, rank):
    values = np.array(eigenvalues[::-1], np.float32)
    assert native.rank_for_variance(values, variance, values.clip(0).sum()) == rank


# Few distinct values, so that ties are common; sums of eighths are exact.
scores_lists = st.lists(st.integers(0, 8).map(lambda i: i / 8), max_size=40)


def by_score(scores):
    return sorted(range(len(scores)), key=lambda i: (-scores[i], i))


@quick
@given(scores_lists, st.data())
def test_select_topk(scores, data):
    keep = data.draw(st.integers(0, len(scores)))
    indices = native.select_topk(np.array(scores, np.float32), keep)
    assert indices.dtype == np.int64
    assert indices.tolist() == sorted(by_score(scores)[:keep])


@quick
@given(scores_lists, st.sampled_from([0.125, 0.25, 0.5, 0.75, 1.0]), st.data())
def test_select_coverage(scores, coverage, data):
    max_keep = data.draw(st.integers(0, len(scores)))
    expected, total = [], 0.0
    for i in by_score(scores)[:max_keep]:
        if total >= coverage * sum(scores) or scores[i] <= 0:
            break
        expected.append(i)
        total += scores[i]
    indices, count = native.select_coverage(np.array(scores, np.float32), max_keep, coverage)
    assert count == len(expected)
    assert indices.tolist() == sorted(expected) + [-1] * (max_keep - count)


def test_coverage_takes_no_token_without_a_score_however_its_sums_round():
    # By index the small scores come first and add up; by score each of them is lost beside 1.
    scores = np.array([1e-16] * 20 + [1.0, 0, 0], np.float32)
    indices, count = native.select_coverage(scores, 23, 1.0)
    assert count == 21
    assert indices.tolist() == [*range(21), -1, -1]


@pytest.mark.parametrize("keep", [-1, 4])
def test_select_refuses_a_bad_keep(keep):
    scores = np.ones(3, np.float32)
    with pytest.raises(ValueError, match=r"keep must be in \[0, N\]"):
        native.select_topk(scores, keep)
    with pytest.raises(ValueError, match=r"max_keep must be in \[0, N\]"):
        native.select_coverage(scores, keep, 0.5)


@pytest.mark.parametrize("shape", [(40, 56), (60, 20), (1, 5), (7, 1)], ids=str)
def test_pick(shape):
    x = gaussian(*shape)
    most = min(12, shape[0])
    oracle = oracle_pivoted(x, most)
    order, shares, rank = native.pick(x.numpy(), most)
    assert order.tolist() == oracle.order.tolist()
    assert rank == oracle.rank
    np.testing.assert_allclose(shares[order], oracle.shares, atol=1e-6)
    assert np.delete(shares, order).sum() == 0
    few = oracle_pivoted(x, most, coverage=0.2).order.tolist()
    assert native.pick(x.numpy(), most, 0.2)[0].tolist() == few + [-1] * (most - len(few))


def test_pick_refuses_more_than_there_are():
    with pytest.raises(ValueError, match=r"most must be in \[0, N\]"):
        native.pick(gaussian(3, 5).numpy(), 4)
