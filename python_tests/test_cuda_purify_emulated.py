"""The kernel purify, run on the CPU: against the oracle, itself, and with what hands images over to it."""

import pytest
import torch
from agreement import assert_agrees
from emulated import cuda_headers
from emulated_purify import HANDED_OVER, purify
from emulated_tridiag import HandOver, Shape, eig_select
from hard_cases import hard_case
from samples import gaussian, orthonormal, outliers, power_law, with_spectrum

from svdprune_ext.reference import oracle_coverage

pytestmark = pytest.mark.skipif(cuda_headers() is None, reason="no CUDA headers found")

SPECTRA = {
    "flat": lambda: gaussian(70, 110),
    "one tile": lambda: gaussian(30, 64),
    "power law": lambda: with_spectrum(66, 80, power_law(66, 0.7)),
    "more tokens than features": lambda: gaussian(66, 30),
    "outliers": lambda: outliers(70, 80, 30),
    "steep": lambda: with_spectrum(66, 70, power_law(66, 2)),
    "duplicates": lambda: gaussian(33, 60).repeat(2, 1),
}


@pytest.mark.parametrize("variance", [0.8, 0.95])
@pytest.mark.parametrize("name", SPECTRA)
def test_spectra(library, name, variance):
    x = SPECTRA[name]()[None]
    found = purify(library, x, 8, variance=variance)
    assert_agrees(x, found.scores, found.rank, found.indices, options={"variance": variance})
    assert torch.equal(found.tokens, torch.take_along_dim(x, found.indices[..., None], dim=1))


@pytest.mark.parametrize("seed", range(18))
def test_random_spectra(library, seed):
    x, options = hard_case(seed, largest=60)
    variance = min(options["variance"], 0.995)
    found = purify(library, x[None], min(8, len(x)), variance=variance)
    promised = {"variance": variance, "solver": "eigh"}  # what all solvers promise on CUDA
    assert_agrees(x[None], found.scores, found.rank, found.indices, options=promised)


def test_a_cut_through_equal_eigenvalues(library):
    found = purify(library, orthonormal(40, 50)[None], variance=0.5)
    assert found.rank.item() in (20, 21)
    assert abs(found.scores.sum().item() - found.rank.item()) < 1e-3
    assert found.scores.min() >= 0
    assert found.scores.max() <= 1


def test_neither_the_order_of_threads_nor_the_blocks_matter(library):
    one = gaussian(66, 90)
    first = purify(library, one[None], 8, blocks=2)
    again = purify(library, one[None], 8, blocks=1, backwards=True)
    of_two = purify(library, one.expand(2, -1, -1).contiguous(), 8, blocks=12)
    for expected, other, twice in zip(first.all, again.all, of_two.all, strict=True):
        assert torch.equal(expected, other)
        assert torch.equal(expected.expand_as(twice), twice)


def test_images_that_were_not_handed_over_are_left_alone(library):
    x = torch.stack([gaussian(40, 60, seed=s) for s in range(3)])
    ranks = torch.tensor([HANDED_OVER, 17, HANDED_OVER], dtype=torch.int32)
    found = purify(library, x, 6, ranks=ranks)
    alone = purify(library, x[2:], 6)
    assert (found.rank[1], found.steps[1]) == (17, -7)
    assert (found.scores[1] == -1).all()
    assert (found.indices[1] == -9).all()
    for of_batch, of_one in zip(found.all, alone.all, strict=True):
        assert torch.equal(of_batch[2], of_one[0])


def test_none_is_handed_over(library):
    found = purify(library, gaussian(1, 70, 90), 6, ranks=torch.tensor([3], dtype=torch.int32))
    assert found.rank.tolist() == [3]
    assert (found.tokens == -3).all()


def test_packed_images(library):
    lengths, keeps = (40, 66, 24), (5, 60, 9)  # whose tiles are those of 66
    images = [gaussian(n, 90, seed=n) for n in lengths]
    offsets = torch.tensor([0, 40, 106, 130])
    cu_keep = torch.tensor([0, 5, 65, 74])
    found = purify(library, torch.cat(images), cu_keep, cu_seqlens=offsets)
    for b, (x, keep) in enumerate(zip(images, keeps, strict=True)):
        alone = purify(library, x[None], keep)
        own = slice(int(cu_keep[b]), int(cu_keep[b + 1]))
        assert found.rank[b] == alone.rank[0]
        torch.testing.assert_close(found.scores[offsets[b] : offsets[b + 1]], alone.scores[0])
        assert torch.equal(found.indices[own] - offsets[b], alone.indices[0])
        assert torch.equal(found.tokens[own], alone.tokens[0])


@pytest.mark.parametrize("rank", [1, 25, 60])
def test_a_rank_that_is_asked_for(library, rank):
    x = gaussian(60, 80)[None]
    found = purify(library, x, 8, rank=rank)
    assert_agrees(x, found.scores, found.rank, found.indices, options={"rank": rank})


def test_as_many_tokens_as_reach_a_coverage(library):
    x = gaussian(40, 60)[None]
    found = purify(library, x, 30, coverage=0.4)
    count = found.count.item()
    assert count == oracle_coverage(found.scores[0].double(), 30, 0.4).numel()
    assert (found.indices[0, count:] == -1).all()
    assert not found.tokens[0, count:].any()


@pytest.mark.parametrize("scale", [1e-10, 1e10])
def test_the_magnitude_does_not_matter(library, scale):
    x = gaussian(40, 60)
    found = purify(library, scale * x[None], variance=0.9)
    torch.testing.assert_close(found.scores, purify(library, x[None]).scores, atol=2e-5, rtol=0)


@pytest.mark.parametrize(
    ("x", "flat"),
    [
        (gaussian(130, 200), True),
        (with_spectrum(130, 140, power_law(130, 0.7)), True),
        (with_spectrum(130, 140, power_law(130, 2)), False),
    ],
    ids=["flat", "power law", "steep"],
)
def test_flat_spectra_are_handed_over(library, x, flat):
    found = eig_select(library, x[None], 8, hand_over=HandOver.FLAT)
    assert (found.rank.item() == HANDED_OVER) == flat
    if flat:
        assert (found.scores == -1).all()
        assert (found.indices == -9).all()
    else:
        alone = eig_select(library, x[None], 8)
        for one, other in zip(found.all, alone.all, strict=True):
            assert torch.equal(one, other)


def test_all_are_handed_over_that_are_in_range(library):
    x = torch.stack([gaussian(40, 50), gaussian(40, 50) * 1e-20, torch.zeros(40, 50)])
    x[1, 3, 4] = float("nan")
    found = eig_select(library, x, 8, hand_over=HandOver.ALWAYS, shape=Shape(4, 64))
    assert found.rank.tolist() == [HANDED_OVER, -1, 0]


@pytest.mark.parametrize("hand_over", [HandOver.FLAT, HandOver.ALWAYS])
def test_an_image_out_of_range_is_not_handed_over(library, hand_over):
    x = 1e-20 * gaussian(1, 130, 200)  # whose matrix has to be formed anew
    found = eig_select(library, x, 8, hand_over=hand_over, shape=Shape(4, 64))
    alone = eig_select(library, x, 8, shape=Shape(4, 64))
    assert found.rank.item() > 0
    for one, other in zip(found.all, alone.all, strict=True):
        assert torch.equal(one, other)
