"""Select "pivoted" of the CUDA backend, its kernel run on the CPU: against the CPU backend."""

import pytest
import torch
from emulated import cuda_headers
from emulated_pivot import pivoted
from samples import gaussian, photograph, samples

import svdprune_ext as svdprune

pytestmark = pytest.mark.skipif(cuda_headers() is None, reason="no CUDA headers found")

SAMPLES = [s for s in samples() if 0 < s.make().numel() <= 40_000]


def assert_equal(found, expected):
    assert torch.equal(found.indices, expected.indices)
    assert torch.equal(found.tokens, expected.tokens)
    assert found.ranks.tolist() == expected.rank.tolist()
    assert found.scores.dtype == expected.scores.dtype
    torch.testing.assert_close(found.scores, expected.scores, atol=1e-5, rtol=0)


@pytest.mark.parametrize("sample", SAMPLES, ids=str)
def test_every_sample_equals_the_cpu_backend(library, sample):
    x = sample.make()
    x = x if x.dim() == 3 else x[None]
    expected = svdprune.prune(x, sample.keep, center=sample.center, select="pivoted")
    found = pivoted(library, x, sample.keep, center=sample.center)
    assert_equal(found, expected)
    assert found.counts.tolist() == [sample.keep] * len(x)


@pytest.mark.parametrize("keep", [0, 1, 32, 70])
def test_any_budget(library, keep):
    x = gaussian(3, 70, 24)
    assert_equal(pivoted(library, x, keep), svdprune.prune(x, keep, select="pivoted"))


@pytest.mark.parametrize("keep", [32, 33, 70])
def test_more_picks_than_a_warp_writes_at_a_time(library, keep):
    x = gaussian(2, 70, 90)  # one warp, which writes the shares of 32
    found = pivoted(library, x, keep)
    assert_equal(found, svdprune.prune(x, keep, select="pivoted"))
    assert found.ranks.tolist() == [keep] * 2


def test_more_tokens_than_threads(library):
    x = torch.stack([photograph(), photograph(3)])
    x = torch.cat([x, x.flip(-1)[:, :300]], dim=1)
    assert x.shape[1] > 768
    assert_equal(pivoted(library, x, 20), svdprune.prune(x, 20, select="pivoted"))


NUMBERS = 210  # of 70 tokens, but for the rows
ROOM = {"nothing": 0, "no rows": NUMBERS, "2 rows": NUMBERS + 3 * 70, "all": NUMBERS + 20 * 70}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("on_chip", ROOM.values(), ids=ROOM)
def test_where_the_block_keeps_its_numbers_changes_no_bit(library, on_chip, dtype):
    x = gaussian(2, 70, 24, dtype=dtype)
    expected = svdprune.prune(x, 20, select="pivoted")
    found = pivoted(library, x, 20, on_chip=on_chip)
    assert_equal(found, expected)
    assert torch.equal(found.scores, pivoted(library, x, 20).scores)
    lengths, keeps = torch.tensor([0, 70, 100, 140]), torch.tensor([0, 20, 27, 37])
    packed = pivoted(library, x.view(140, 24), keeps, cu_seqlens=lengths, on_chip=on_chip)
    assert torch.equal(packed.scores[:70], found.scores[0])


@pytest.mark.parametrize("coverage", [0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("max_keep", [5, 70])
def test_coverage(library, coverage, max_keep):
    x = gaussian(2, 70, 24)
    options = {"coverage": coverage, "select": "pivoted"}
    expected = svdprune.prune_adaptive(x, max_keep, **options)
    found = pivoted(library, x, max_keep, coverage=coverage)
    if coverage == 1:  # whether the last pick is wanted depends on the rounding of the sum
        assert (found.counts - expected.count).abs().max() <= 1
        return
    assert_equal(found, expected)
    assert found.counts.tolist() == expected.count.tolist()


def test_an_image_without_energy(library):
    x = torch.zeros(1, 40, 50)
    found = pivoted(library, x, 6)
    assert found.indices.tolist() == [list(range(6))]
    assert found.ranks.tolist() == [0]
    assert not found.scores.any()
    covered = pivoted(library, x, 6, coverage=0.5)
    assert covered.counts.tolist() == [0]
    assert covered.indices.tolist() == [[-1] * 6]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16], ids=str)
def test_packed_images(library, dtype):
    x = gaussian(90, 24, dtype=dtype)
    lengths, keeps = torch.tensor([0, 30, 30, 50, 90]), torch.tensor([0, 7, 7, 27, 30])
    expected = svdprune.prune_varlen(x, lengths, keeps, select="pivoted")
    assert_equal(pivoted(library, x, keeps, cu_seqlens=lengths), expected)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("coverage", [0.0, 0.5])
def test_an_image_that_is_not_finite(library, value, coverage):
    x = gaussian(3, 30, 20)
    x[1, 4, 5] = value
    found = pivoted(library, x, 4, coverage=coverage)
    assert found.indices[1].tolist() == [0, 1, 2, 3]
    assert found.scores[1].isnan().all()
    assert found.ranks[1] == -1
    alone = pivoted(library, x[2:], 4, coverage=coverage)
    assert torch.equal(found.indices[2], alone.indices[0])
    assert torch.equal(found.scores[2], alone.scores[0])


def test_the_order_of_the_threads_changes_no_bit(library):
    x = gaussian(2, 600, 40)
    forwards, backwards = (pivoted(library, x, 50, backwards=b) for b in (False, True))
    assert all(torch.equal(a, b) for a, b in zip(forwards, backwards, strict=True))
