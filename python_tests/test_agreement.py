"""The comparison with the oracle must be able to fail."""

import pytest
import torch
from agreement import assert_agrees, promise_for, tolerance
from samples import gaussian, sample, with_spectrum

import svdprune_ext as svdprune
from svdprune_ext.reference import oracle_leverage


@pytest.fixture
def pruned():
    x = gaussian(48, 64)
    return x, svdprune.prune(x, 16)


def test_accepts_the_operator(pruned):
    x, out = pruned
    assert_agrees(x, out.scores, out.rank, out.indices, options={})


@pytest.mark.parametrize("error", [1e-3, -1e-3])
def test_refuses_a_wrong_score(pruned, error):
    x, out = pruned
    scores = out.scores.clone()
    scores[10] += error
    with pytest.raises(AssertionError, match="score of token 10"):
        assert_agrees(x, scores, out.rank, options={})


def test_refuses_scores_that_do_not_sum_to_the_rank(pruned):
    x, out = pruned
    with pytest.raises(AssertionError, match="sum to"):
        assert_agrees(x, out.scores + 1e-4, out.rank, options={})


def test_refuses_a_score_above_one(pruned):
    x, out = pruned
    scores = out.scores.clone()
    scores[0] = 1.1
    with pytest.raises(AssertionError, match=r"outside \[0, 1\]"):
        assert_agrees(x, scores, out.rank, options={})


@pytest.mark.parametrize("off", [-2, -1, 1, 2])
def test_refuses_a_wrong_rank(pruned, off):
    x, out = pruned
    with pytest.raises(AssertionError, match="rank is"):
        assert_agrees(x, out.scores, out.rank + off, options={})


def test_refuses_wrong_indices(pruned):
    x, out = pruned
    others = [i for i in range(48) if i not in out.indices.tolist()]
    indices = out.indices.clone()
    indices[0] = others[0]
    with pytest.raises(AssertionError, match="highest scores"):
        assert_agrees(x, out.scores, out.rank, indices.sort().values, options={})


def test_refuses_unsorted_indices(pruned):
    x, out = pruned
    with pytest.raises(AssertionError, match="highest scores"):
        assert_agrees(x, out.scores, out.rank, out.indices.flip(0), options={})


def test_refuses_scores_of_an_image_without_energy():
    x = torch.zeros(4, 6)
    with pytest.raises(AssertionError, match="without energy"):
        assert_agrees(x, torch.full((4,), 0.1), torch.tensor(0), options={})


def test_accepts_either_rank_at_the_threshold():
    # Three of four equal energies hold exactly the share asked for.
    x = with_spectrum(12, 16, torch.tensor([3.0, 2.0, 1.0, 1e-6]))
    for rank in (2, 3):
        scores = oracle_leverage(x, rank=rank).scores.float()
        assert_agrees(x, scores, torch.tensor(rank), options={"variance": 5 / 6})


def test_holds_only_invariants_at_a_degenerate_cut():
    s = sample("degenerate_cut")
    x = s.make()
    oracle = oracle_leverage(x, **s.options)
    assert tolerance(oracle, oracle.rank, promise_for(x.dtype, "auto")) >= 0.5
    other = torch.linalg.svd(x + 1e-6 * gaussian(*x.shape, seed=9), full_matrices=False).U
    scores = other[:, : oracle.rank].square().sum(1)
    assert_agrees(x, scores, torch.tensor(oracle.rank), options=s.options)


def test_float64_is_held_to_more():
    x = gaussian(48, 64, dtype=torch.float64)
    out = svdprune.leverage_scores(x)
    assert_agrees(x, out.scores, out.rank, options={})
    with pytest.raises(AssertionError, match="score of token"):
        assert_agrees(x, out.scores.float().add(1e-6).double(), out.rank, options={})
