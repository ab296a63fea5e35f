"""What holds for every input, whatever its values: properties of leverage, and of the layout."""

import numpy as np
import pytest
import torch
from agreement import FLOAT32, assert_agrees, relative_gap, tolerance
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from samples import gaussian, orthonormal, sample

import svdprune_ext as svdprune
from svdprune_ext._load import load_native
from svdprune_ext.reference import oracle_leverage

# Derandomised, so that a run can be repeated.
quick = settings(max_examples=40, deadline=None, derandomize=True)
sizes = st.integers(1, 40)
seeds = st.integers(0, 10_000)


@st.composite
def features(draw, dtype=torch.float32):
    """[N, D] with a decaying spectrum, some rows repeated and some zero."""
    n, d = draw(sizes), draw(sizes)
    seed = draw(seeds)
    x = gaussian(n, d, seed=seed) * torch.arange(1, d + 1) ** -draw(st.floats(0, 2))
    if draw(st.booleans()):
        x[n // 2 :] = x[: n - n // 2].clone()
    if draw(st.booleans()):
        x[draw(st.integers(0, n - 1))] = 0
    return x.to(dtype)


def settled(x, **options):
    """The tolerance on the scores of x; inputs whose rank or subspace hangs by a thread are left out."""
    oracle = oracle_leverage(x, **options)
    assume(oracle.rank > 0)
    share = oracle.energy.cumsum(0) / oracle.energy.sum()
    assume((share - options.get("variance", 0.9)).abs().min() > 1e-4 or oracle.rank == len(x))
    assume(relative_gap(oracle, oracle.rank) > 1e-4)
    return tolerance(oracle, oracle.rank, FLOAT32)


@quick
@given(
    features(),
    st.floats(0.01, 0.999),
    st.booleans(),
    st.sampled_from([torch.float64, torch.float32, torch.float16, torch.bfloat16]),
)
def test_scores_are_leverages(x, variance, center, dtype):
    scores, rank = svdprune.leverage_scores(x.to(dtype), variance=variance, center=center)
    assert torch.isfinite(scores).all()
    assert ((scores >= 0) & (scores <= 1)).all()
    assert scores.sum().item() == pytest.approx(rank.item(), abs=1e-3)
    assert 0 <= rank <= min(x.shape)


@quick
@given(features(), st.integers(1, 40))
def test_scores_sum_to_the_rank_asked_for(x, rank):
    rank = min(rank, *x.shape)
    scores, got = svdprune.leverage_scores(x, rank=rank)
    assert got == (rank if x.any() else 0)
    assert scores.sum().item() == pytest.approx(got.item(), abs=2e-2)


@quick
@given(features(), st.floats(0.05, 0.95), st.data())
def test_agrees_with_the_oracle(x, variance, data):
    keep = data.draw(st.integers(0, len(x)))
    out = svdprune.prune(x, keep, variance=variance)
    assert_agrees(x, out.scores, out.rank, out.indices, options={"variance": variance})


@quick
@given(features(), seeds)
def test_permuting_tokens_permutes_scores(x, seed):
    allowed = settled(x)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    a, b = svdprune.leverage_scores(x), svdprune.leverage_scores(x[order])
    assert a.rank == b.rank
    assert (a.scores[order] - b.scores).abs().max() <= 2 * allowed


@quick
@given(features(torch.float64), seeds)
def test_rotating_features_changes_nothing(x, seed):
    settled(x)
    rotation = orthonormal(x.shape[1], x.shape[1], seed)
    a, b = svdprune.leverage_scores(x), svdprune.leverage_scores(x @ rotation)
    assert a.rank == b.rank
    torch.testing.assert_close(a.scores, b.scores, atol=1e-8, rtol=0)


@quick
@given(features(), st.integers(-30, 30))
def test_scaling_features_by_a_power_of_two_changes_nothing(x, exponent):
    a, b = svdprune.leverage_scores(x), svdprune.leverage_scores(x * 2.0**exponent)
    assert a.rank == b.rank
    torch.testing.assert_close(a.scores, b.scores, atol=1e-5, rtol=0)


@quick
@given(features(), st.floats(1e-6, 1e6))
def test_scaling_features_changes_nothing(x, factor):
    allowed = settled(x)
    a, b = svdprune.leverage_scores(x), svdprune.leverage_scores(x * factor)
    assert a.rank == b.rank
    assert (a.scores - b.scores).abs().max() <= 2 * allowed


@quick
@given(features(torch.float64), seeds)
def test_shifting_centered_features_changes_nothing(x, seed):
    centered = x - x.mean(0)
    assume(centered.abs().max() > 1e-3)
    settled(centered)
    shift = gaussian(x.shape[1], seed=seed, dtype=torch.float64)
    a = svdprune.leverage_scores(x, center=True)
    b = svdprune.leverage_scores(x + shift, center=True)
    assert a.rank == b.rank
    torch.testing.assert_close(a.scores, b.scores, atol=1e-8, rtol=0)


@quick
@given(features(), st.floats(0.05, 0.95))
def test_a_larger_variance_never_lowers_the_rank(x, variance):
    low = svdprune.leverage_scores(x, variance=variance).rank
    assert low <= svdprune.leverage_scores(x, variance=variance + 0.04).rank


@quick
@given(features(), st.floats(0.05, 0.999))
def test_adaptive_keeps_no_token_too_many(x, coverage):
    out = svdprune.prune_adaptive(x, len(x), coverage=coverage)
    count = int(out.count)
    kept = out.scores.double()[out.indices[:count]]
    target = coverage * out.scores.double().sum()
    if count == 0:
        assert target == 0
        return
    assert kept.sum() >= target - 1e-12
    assert kept.sum() - kept.min() < target + 1e-12
    top = svdprune.prune(x, count)
    assert torch.equal(top.indices, out.indices[:count])


@quick
@given(features(), st.data())
def test_batch_equals_loop(x, data):
    batch = torch.stack([x, x.flip(0), 2 * x + x.roll(1, 0)])
    keep = data.draw(st.integers(0, len(x)))
    allowed = max(settled(image) for image in batch)
    out = svdprune.prune(batch, keep)
    for b, image in enumerate(batch):
        alone = svdprune.prune(image, keep)
        assert out.rank[b] == alone.rank
        assert (out.scores[b] - alone.scores).abs().max() <= 2 * allowed


LAYOUTS = {
    "transposed": lambda x: x.mT.contiguous().mT,
    "images_last": lambda x: x.permute(1, 2, 0).contiguous().permute(2, 0, 1),
    "strided_features": lambda x: x.repeat_interleave(3, dim=2)[..., ::3],
    "strided_tokens": lambda x: x.repeat_interleave(2, dim=1)[:, 1::2],
    "strided_images": lambda x: x.repeat_interleave(2, dim=0)[::2],
    "offset": lambda x: torch.cat([x.new_full((1, *x.shape[1:]), torch.nan), x])[1:],
    "class_token_cut_off": lambda x: torch.cat([x.new_full((3, 1, x.shape[2]), 9), x], 1)[:, 1:],
    "narrow_features": lambda x: torch.cat([x, x.new_full((3, x.shape[1], 5), torch.nan)], 2)[
        ..., : x.shape[2]
    ],
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("shape", [(3, 20, 28), (3, 40, 12)], ids=str)
@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_layout_changes_nothing(layout, shape, center, dtype):
    x = gaussian(*shape, dtype=dtype)
    view = layout(x)
    assert torch.equal(view, x)
    a = svdprune.prune(x, 6, center=center)
    b = svdprune.prune(view, 6, center=center)
    assert torch.equal(a.indices, b.indices)
    assert torch.equal(a.tokens, b.tokens)
    assert torch.equal(a.rank, b.rank)
    torch.testing.assert_close(a.scores, b.scores, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dims", [0, 1, 2])
def test_expanded_equals_contiguous(dims):
    x = gaussian(3, 20, 28).select(dims, 0).unsqueeze(dims).expand(3, 20, 28)
    a, b = svdprune.leverage_scores(x), svdprune.leverage_scores(x.contiguous())
    assert torch.equal(a.rank, b.rank)
    torch.testing.assert_close(a.scores, b.scores, atol=1e-4, rtol=0)


def test_negated_and_conjugated_views():
    x = torch.complex(gaussian(12, 16), gaussian(12, 16, seed=1)).conj().imag
    assert x.is_neg()
    out = svdprune.prune(x, 5)
    assert torch.equal(out.tokens, x[out.indices])


def test_the_same_call_gives_the_same_bits():
    x = sample("batch").make()
    first = svdprune.prune(x, 8)
    for _ in range(5):
        again = svdprune.prune(x, 8)
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@quick
@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), max_size=30), st.data())
def test_ties_go_to_the_lower_index(scores, data):
    keep = data.draw(st.integers(0, len(scores)))
    best = sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:keep]
    indices = load_native().select_topk(np.array(scores, np.float32), keep)
    assert indices.tolist() == sorted(best)


def test_duplicates_of_a_token_are_kept_in_order():
    # Each unit vector three times: all leverages are 1 / 3, to the bit in a float64 sum of one term.
    x = torch.eye(4).repeat(3, 1)
    out = svdprune.prune(x, 5, rank=4)
    if out.scores.unique().numel() == 1:
        assert out.indices.tolist() == [0, 1, 2, 3, 4]
    assert_agrees(x, out.scores, out.rank, out.indices, options={"rank": 4})
