"""Select "pivoted" against the float64 oracle and what must hold of it."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hard_cases import hard_case
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import gaussian, nearly_a_copy, nearly_equal, sample, samples

import svdprune_ext as svdprune
from svdprune_ext._load import load_native
from svdprune_ext.reference import oracle_energy, oracle_pivoted

native = load_native()

quick = settings(max_examples=40, deadline=None, derandomize=True)
seeds = st.integers(0, 10_000)
every_sample = pytest.mark.parametrize("sample", samples(), ids=str)
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def pivoted(x, keep, **options):
    return svdprune.prune(x, keep, select="pivoted", **options)


def order_of(x, keep, center=False):
    """The picks in their order: each prefix keeps one token more."""
    kept = [set(pivoted(x, k, center=center).indices.tolist()) for k in range(keep + 1)]
    assert all(len(more - fewer) == 1 for fewer, more in pairwise(kept))
    return [(more - fewer).pop() for fewer, more in pairwise(kept)]


def normalised(x, center):
    x = x.double()
    x = x / x.abs().max() if x.any() else x
    return x - x.mean(0) if center else x


def assert_each_pick_is_best(x, order, scores, rank, center=False):
    """Replays the order in float64: what each pick adds, and that no other token had more of its own left."""
    eps = 2.0**-52 if x.dtype == torch.float64 else 2.0**-23
    left = normalised(x, center)
    lengths, energy = left.square().sum(1), left.square().sum()
    for step, pick in enumerate(order):
        squares = left.square().sum(1)
        squares[order[:step]] = 0
        if step >= rank:
            assert (squares <= 1024 * eps * lengths).all(), "some tokens had something left"
            assert scores[pick] == 0
            continue
        best = int(squares.argmax())
        off = squares[best] - squares[pick]
        assert off <= 64 * eps * (lengths[best] + lengths[pick]), (
            f"pick {step} is {pick}, not {best}"
        )
        along = left @ (left[pick] / left[pick].norm())
        assert abs(along.square().sum() / energy - scores[pick]) < 4e3 * eps
        left = left - along[:, None] * (left[pick] / left[pick].norm())
    assert set(scores.nonzero().flatten().tolist()) <= set(order)


@every_sample
def test_samples(sample):
    x, keep = sample.make(), sample.keep
    images = x if x.dim() == 3 else x[None]
    out = pivoted(x, keep, center=sample.center)
    assert torch.equal(out.tokens, torch.take_along_dim(x, out.indices[..., None], dim=-2))
    for image, indices, scores, rank in zip(
        images,
        out.indices.reshape(len(images), keep),
        out.scores.reshape(len(images), x.shape[-2]),
        out.rank.flatten().tolist(),
        strict=True,
    ):
        order = order_of(image, keep, sample.center)
        assert sorted(order) == indices.tolist()
        assert_each_pick_is_best(image, order, scores, rank, sample.center)


@pytest.mark.parametrize("seed", range(24))
def test_hard_spectra(seed):
    x, options = hard_case(seed, largest=90)
    keep = min(len(x), 24)
    out = pivoted(x, keep, center=options["center"])
    order = order_of(x, keep, options["center"])
    assert_each_pick_is_best(x, order, out.scores, int(out.rank), options["center"])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(40, 56), (60, 20), (30, 1), (96, 96)], ids=str)
@pytest.mark.parametrize("center", [False, True])
def test_equals_the_oracle_where_nothing_is_close(shape, dtype, center):
    x = gaussian(*shape, dtype=dtype)
    oracle = oracle_pivoted(
        x, 16, center=center, eps=2.0**-52 if dtype == torch.float64 else 2.0**-23
    )
    out = pivoted(x, 16, center=center)
    assert out.indices.tolist() == oracle.order.sort().values.tolist()
    assert int(out.rank) == oracle.rank
    torch.testing.assert_close(out.scores[oracle.order].double(), oracle.shares, atol=1e-6, rtol=0)


@quick
@given(seeds, st.integers(1, 12))
def test_scores_sum_to_the_energy_held(seed, keep):
    x = gaussian(24, 30, seed=seed, dtype=torch.float64)
    out = pivoted(x, keep)
    assert float(out.scores.sum()) == pytest.approx(oracle_energy(x, out.indices), abs=1e-10)
    assert svdprune.captured_energy(x, out.indices).item() == pytest.approx(
        float(out.scores.sum()), abs=1e-10
    )


@quick
@given(seeds, st.sampled_from(DTYPES), st.integers(1, 14))
def test_no_copy_is_kept_while_anything_else_has_something_left(seed, dtype, keep):
    base = gaussian(14, 20, seed=seed, dtype=dtype)
    order = torch.randperm(28, generator=torch.Generator().manual_seed(seed))
    x = base.repeat(2, 1)[order]
    kept = pivoted(x, keep).indices
    assert (order[kept] % 14).unique().numel() == keep
    # Of two copies the first is kept, as in a copy of the image where each token is its first copy's.
    first = {int(token): place for place, token in reversed(list(enumerate(order % 14)))}
    assert all(first[int(order[place] % 14)] == place for place in kept.tolist())


@quick
@given(seeds, st.integers(0, 20))
def test_permuting_tokens_permutes_the_picks(seed, keep):
    x = gaussian(20, 26, seed=seed)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(seed))
    straight, permuted = pivoted(x, keep), pivoted(x[order], keep)
    assert sorted(order[permuted.indices].tolist()) == straight.indices.tolist()
    torch.testing.assert_close(permuted.scores, straight.scores[order], atol=1e-5, rtol=0)


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e12, 1e25])
def test_scale_changes_nothing(scale):
    x = gaussian(40, 56)
    assert torch.equal(pivoted(x * scale, 12).indices, pivoted(x, 12).indices)


def test_all_are_kept_and_none_is():
    x = gaussian(2, 18, 26)
    assert pivoted(x, 18).indices.tolist() == [list(range(18))] * 2
    assert pivoted(x, 18).rank.tolist() == [18, 18]
    none = pivoted(x, 0)
    assert none.tokens.shape == (2, 0, 26)
    assert none.rank.tolist() == [0, 0]
    assert not none.scores.any()


def test_what_is_explained_follows_by_its_index():
    x = gaussian(3, 40).repeat(4, 1)
    out = pivoted(x, 7)
    assert out.indices.tolist() == list(range(7))
    assert int(out.rank) == 3
    zeros = pivoted(torch.zeros(9, 4), 4)
    assert zeros.indices.tolist() == [0, 1, 2, 3]
    assert int(zeros.rank) == 0


def test_ties_go_to_the_lower_index():
    assert pivoted(torch.eye(20, 32), 7).indices.tolist() == list(range(7))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_what_counts_as_nothing_and_as_equal(dtype):
    eps = torch.finfo(dtype).eps
    ranks = [pivoted(nearly_a_copy(n * eps, dtype), 2).rank.item() for n in (90, 180)]
    assert ranks == [1, 2]
    picks = [pivoted(nearly_equal(n * eps, dtype), 1).indices.item() for n in (20, 45)]
    assert picks == [0, 1]


@every_sample
@pytest.mark.parametrize("coverage", [0.3, 0.9])
def test_adaptive_stops_at_the_energy_asked_for(sample, coverage):
    x = sample.make()
    x = x[0] if x.dim() == 3 else x
    options = {"center": sample.center, "select": "pivoted"}
    out = svdprune.prune_adaptive(x, sample.keep, coverage=coverage, **options)
    count = int(out.count)
    fixed = svdprune.prune(x, count, **options)
    assert out.indices.tolist() == fixed.indices.tolist() + [-1] * (sample.keep - count)
    # Fewer columns of the Gram matrix may be made one at a time, which rounds them otherwise.
    torch.testing.assert_close(out.scores, fixed.scores, atol=1e-6, rtol=0)
    assert out.rank == fixed.rank == count
    assert torch.equal(out.tokens[:count], fixed.tokens)
    assert not out.tokens[count:].any()
    reached = out.scores.double().sum() >= coverage - 1e-6
    assert reached or count == min(
        sample.keep, int(pivoted(x, sample.keep, center=sample.center).rank)
    )
    if count > 1:
        before = svdprune.prune(x, count - 1, **options)
        assert before.scores.double().sum() < coverage + 1e-6


@pytest.mark.parametrize("name", ["gaussian", "more_tokens", "bfloat16", "float64"])
def test_varlen_equals_each_image(name):
    x = sample(name).make()
    x = x.flatten(0, -2)
    lengths, keeps = [7, 0, len(x) - 20, 13], [3, 0, 8, 13]
    out = svdprune.prune_varlen(
        x,
        torch.tensor([0, *lengths]).cumsum(0),
        torch.tensor([0, *keeps]).cumsum(0),
        select="pivoted",
    )
    first = 0
    for image, keep, indices, rank in zip(
        x.split(lengths), keeps, out.indices.split(keeps), out.rank.tolist(), strict=True
    ):
        alone = pivoted(image, keep)
        assert torch.equal(indices - first, alone.indices)
        assert torch.equal(out.scores[first : first + len(image)], alone.scores)
        assert rank == alone.rank
        first += len(image)


@pytest.mark.parametrize("op", ["prune", "prune_adaptive"])
def test_nan_is_refused(op):
    x = gaussian(2, 6, 5)
    x[1, 2, 3] = torch.nan
    options = {"coverage": 0.5} if op == "prune_adaptive" else {}
    with pytest.raises(ValueError, match="x must be finite, got NaN or Inf in image 1 of x"):
        getattr(svdprune, op)(x, 3, select="pivoted", **options)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("layout", ["contiguous", "transposed"])
def test_columns_on_demand_are_those_of_the_matrix(dtype, center, layout):
    # Up to N / 8 picks take columns one at a time; the first of more picks are the same.
    x = gaussian(100, 30, dtype=dtype) + 0.5
    x = x.mT.contiguous().mT if layout == "transposed" else x
    few, more = order_of(x, 12, center), order_of(x, 20, center)
    assert few == more[:12]
    out = pivoted(x, 12, center=center)
    assert_each_pick_is_best(x, few, out.scores, int(out.rank), center)


@pytest.mark.parametrize("shape", [(101, 300), (100, 1030), (7, 5), (1, 3)])
def test_a_column_does_not_depend_on_those_made_with_it(shape):
    x = gaussian(*shape, seed=1).numpy()
    rng = np.random.default_rng(0)
    for token in {0, len(x) // 2, len(x) - 1}:
        alone = native.gram_column(x, token, np.zeros(len(x)))
        expected = x.astype(np.float64) @ x[token].astype(np.float64)
        assert np.abs(alone - expected).max() < 1e-5 * np.linalg.norm(x, axis=1).max() ** 2
        for worth in (rng.random(len(x)), np.ones(len(x)), -np.ones(len(x))):
            assert np.array_equal(native.gram_column(x, token, worth), alone)


@pytest.mark.parametrize("keep", [5, 40])
def test_threads_change_no_bit(keep):
    x = gaussian(100, 300)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(pivoted(x, keep))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_no_more_tokens_than_features_have_something_of_their_own(dtype):
    for seed in range(40):
        x = gaussian(100, 2, seed=seed) * torch.tensor([1, 1e-3])
        for keep in (4, 80):  # columns on demand, and the whole matrix
            out = pivoted(x.to(dtype), keep)
            assert out.rank == 2
            assert out.scores.count_nonzero() == 2
