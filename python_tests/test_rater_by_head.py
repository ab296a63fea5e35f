"""``rater_scores_by_head``, on the CPU and by emulated CUDA kernels, against the float64 oracle."""

import re

import pytest
import torch
from emulated import cuda_headers
from emulated_rater import rater_scores_by_head as emulated_by_head
from rater_samples import error_bound, rater_sample, rater_samples
from torch.library import opcheck

import svdprune_ext as svdprune
from svdprune_ext.reference import oracle_rater_scores_by_head

op = torch.ops.svdprune.rater_scores_by_head
SAMPLES = [s for s in rater_samples() if s.weights is None]
every_sample = pytest.mark.parametrize("sample", SAMPLES, ids=str)
every_divisor = pytest.mark.parametrize("divisor", [None, "shared", "own"])


def with_divisor(tensors, options, kind):
    """The options with a divisor [1 or B, R, N]; positive, so that nothing cancels."""
    if kind is None:
        return options
    q, _, raters, visual = tensors
    shape = (1 if kind == "shared" else len(q), raters.shape[1], visual.shape[1])
    values = torch.rand(shape, generator=torch.Generator().manual_seed(3)) + 0.25
    return {**options, "divisor": values.double() if q.dtype == torch.float64 else values}


def assert_agrees(got, tensors, options):
    wanted = oracle_rater_scores_by_head(*tensors, **options)
    bound = error_bound(*tensors[:2], options.get("scale"))
    torch.testing.assert_close(got.double(), wanted, rtol=bound, atol=1e-12)


@every_sample
@every_divisor
def test_every_sample_agrees_with_the_oracle(sample, divisor):
    tensors, options = sample.make()
    options = with_divisor(tensors, options, divisor)
    got = svdprune.rater_scores_by_head(*tensors, **options)
    assert got.dtype == (torch.float64 if tensors[0].dtype == torch.float64 else torch.float32)
    assert got.is_contiguous()
    assert_agrees(got, tensors, options)


@pytest.mark.skipif(cuda_headers() is None, reason="no CUDA headers found")
@pytest.mark.parametrize("sample", [s for s in SAMPLES if s.name != "llava"], ids=str)
def test_the_cuda_kernels_agree_with_the_oracle(library, sample):
    tensors, options = sample.make()
    for kind in ("own", "shared"):
        options = with_divisor(tensors, options, kind)
        got = emulated_by_head(library, *tensors, **options)
        assert_agrees(got, tensors, options)
    assert torch.equal(emulated_by_head(library, *tensors, **options, backwards=True), got)


def test_the_mean_over_the_heads_is_that_of_rater_scores():
    tensors, options = rater_sample("padded_left").make()
    by_head = svdprune.rater_scores_by_head(*tensors, **options)
    scores = svdprune.rater_scores(*tensors, **options).scores
    torch.testing.assert_close(by_head.mean(1), scores)


def test_divisors_of_either_sign():
    """One rater of two pays as much as the other, and is divided by as much below zero."""
    q, k = torch.zeros(1, 2, 4, 8), torch.zeros(1, 2, 4, 8)
    divisor = torch.tensor([[[2.0, 4.0], [-2.0, 4.0]]])
    places = torch.tensor([[3, 3]]), torch.tensor([[0, 1]])
    scores = svdprune.rater_scores_by_head(q, k, *places, divisor=divisor)
    torch.testing.assert_close(scores, torch.tensor([[[0.0, 1 / 16]] * 2]))


def test_nothing_is_divided_where_nothing_is_paid():
    q, k, _, _ = rater_sample("no_cache").make()[0]
    raters, visual = torch.tensor([[2, -1]] * 2), torch.tensor([[0, 5, -1]] * 2)  # 5 is ahead of 2
    divisor = torch.zeros(1, 2, 3)
    divisor[:, 0, 0] = 1
    scores = svdprune.rater_scores_by_head(q, k, raters, visual, divisor=divisor)
    assert scores.isfinite().all()
    assert (scores[..., 0] > 0).all()
    assert not scores[..., 1:].any()


def test_threads_change_no_bit():
    tensors, options = rater_sample("llava").make()
    options = with_divisor(tensors, options, "own")
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            results.append(svdprune.rater_scores_by_head(*tensors, **options))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(other, results[0]) for other in results[1:])


@pytest.mark.parametrize("name", ["plain", "mask_of_heads", "no_raters", "float64", "bfloat16"])
def test_opcheck(name):
    tensors, options = rater_sample(name).make()
    tensors[0].requires_grad_()
    divisor = with_divisor(tensors, {}, "own")["divisor"]
    opcheck(op.default, (*tensors, options.get("mask"), divisor), {})
    assert not op(*tensors, options.get("mask"), divisor).requires_grad


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k": torch.zeros(1, 2, 9, 7)}, "k must be [B, Hkv, S, d] with B = 2 and d = 8 of q, got"),
        ({"raters": torch.tensor([[0], [6]])}, "raters must lie in [-1, 6), got 6 in prompt 1"),
        ({"divisor": torch.ones(2, 3, 2).double()}, "divisor must be Float, got Double"),
        (
            {"divisor": torch.ones(2, 2, 2)},
            "divisor must be [B or 1, R, N] = [2, 3, 2], got shape [2, 2, 2]",
        ),
        (
            {"divisor": torch.ones(3, 2)},
            "divisor must be [B or 1, R, N] = [2, 3, 2], got shape [3, 2]",
        ),
    ],
)
def test_bad_arguments(changes, message):
    right = {
        "q": torch.zeros(2, 4, 6, 8),
        "k": torch.zeros(2, 2, 9, 8),
        "raters": torch.tensor([[5, 1, -1]] * 2),
        "visual": torch.tensor([[0, 8]] * 2),
    }
    assert svdprune.rater_scores_by_head(**right).shape == (2, 4, 2)
    with pytest.raises(ValueError, match=re.escape(f"svdprune::rater_scores_by_head: {message}")):
        svdprune.rater_scores_by_head(**{**right, **changes})
