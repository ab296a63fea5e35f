"""What the CUDA kernels of ``rater_scores`` compute, run on the CPU: against the oracle."""

import pytest
import torch
from emulated import cuda_headers
from emulated_rater import rater_scores
from rater_samples import error_bound, rater_sample, rater_samples
from samples import gaussian

from svdprune_ext.reference import oracle_rater_scores

pytestmark = pytest.mark.skipif(cuda_headers() is None, reason="no CUDA headers found")

# "llava" would take a minute here.
SAMPLES = [s for s in rater_samples() if s.name != "llava"]


def assert_agrees(out, tensors, options):
    bound = error_bound(*tensors[:2], options.get("scale"))
    for got, wanted in zip(out, oracle_rater_scores(*tensors, **options), strict=True):
        torch.testing.assert_close(got.double(), wanted, rtol=bound, atol=1e-12, equal_nan=True)


@pytest.mark.parametrize("sample", SAMPLES, ids=str)
def test_every_sample_agrees_with_the_oracle(library, sample):
    tensors, options = sample.make()
    assert_agrees(rater_scores(library, *tensors, **options), tensors, options)


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str
)
@pytest.mark.parametrize("d", [1, 7, 8, 20, 32, 40, 72], ids=lambda d: f"d={d}")
@pytest.mark.parametrize("view", ["heads_last", "odd_start", "features_apart"])
def test_any_width_and_strides(library, dtype, d, view):
    base = gaussian(1, 40, 3, 2 * d + 1, seed=d).to(dtype)
    q = {
        "heads_last": base[..., :d].transpose(1, 2),
        "odd_start": base[..., 1 : d + 1].transpose(1, 2),
        "features_apart": base[..., : 2 * d : 2].transpose(1, 2),
    }[view]
    k = q.flip(2)
    tensors = (q, k, torch.tensor([[39, 0, 20]]), torch.arange(36)[None])
    assert_agrees(rater_scores(library, *tensors), tensors, {})


def test_positions_out_of_range_are_padding(library):
    q, k = gaussian(1, 2, 12, 8), gaussian(1, 2, 12, 8, seed=1)
    wild = torch.tensor([[3, 12, -7, 2**40, 11]]), torch.tensor([[1, 2**33 + 4, 12, -(2**62), 5]])
    tame = torch.tensor([[3, -1, -1, -1, 11]]), torch.tensor([[1, -1, -1, -1, 5]])
    for got, wanted in zip(
        rater_scores(library, q, k, *wild), rater_scores(library, q, k, *tame), strict=True
    ):
        assert torch.equal(got, wanted)


@pytest.mark.parametrize("name", ["many_keys", "heads_share_a_key_head", "bfloat16"])
def test_the_order_of_the_threads_does_not_matter(library, name):
    tensors, options = rater_sample(name).make()
    forwards = rater_scores(library, *tensors, **options)
    backwards = rater_scores(library, *tensors, **options, backwards=True)
    assert all(torch.equal(a, b) for a, b in zip(forwards, backwards, strict=True))


def test_nan_stays_in_the_rows_that_see_it(library):
    q, k = gaussian(1, 2, 40, 8), gaussian(1, 2, 40, 8, seed=1)
    k[:, :, 20] = float("nan")
    raters, visual = torch.tensor([[39, 19]]), torch.arange(20)[None]
    _, attention, _ = rater_scores(library, q, k, raters, visual)
    assert attention[0, 0].isnan().all()
    assert not attention[0, 1].isnan().any()
    hidden = rater_scores(library, q, k, raters, visual, mask=torch.arange(40)[None] != 20)
    assert not any(t.isnan().any() for t in hidden)


def test_an_infinite_product_makes_its_row_nan(library):
    q, k = torch.full((1, 1, 2, 8), 2e19), torch.zeros(1, 1, 2, 8)
    k[..., 1, :] = 2e19
    _, attention, _ = rater_scores(library, q, k, torch.tensor([[0, 1]]), torch.tensor([[0, 1]]))
    assert attention[0, 0].tolist() == [1, 0]
    assert attention[0, 1, 1].isnan()
