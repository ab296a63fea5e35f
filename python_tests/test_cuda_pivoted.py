"""Select "pivoted" of the CUDA backend against the float64 oracle: on a GPU, and emulated."""

from itertools import product

import pytest
import torch
from backends import on_backends
from samples import gaussian, nearly_a_copy, nearly_equal

import svdprune_ext as svdprune
from svdprune_ext.reference import oracle_pivoted


def assert_is_the_oracles(x, keep, indices, scores, rank, coverage=0.0, center=False):
    """x [N, D], of which no two tokens have nearly the same left."""
    eps = 2.0**-52 if x.dtype == torch.float64 else 2.0**-23
    expected = oracle_pivoted(x, keep, coverage, center, eps)
    assert indices.tolist() == sorted(expected.order.tolist())
    assert rank == expected.rank
    wanted = torch.zeros(len(x), dtype=torch.float64)
    wanted[expected.order] = expected.shares.double()
    torch.testing.assert_close(scores.double(), wanted, atol=1e-5, rtol=0)


@on_backends(
    ("shape", "dtype"),
    product(
        [(2, 30, 40), (45, 12), (3, 1, 5)],
        [torch.float64, torch.float32, torch.float16, torch.bfloat16],
    ),
)
@pytest.mark.parametrize("center", [False, True])
def test_prune(backend, shape, dtype, center):
    x = gaussian(*shape, dtype=dtype)
    keep = min(shape[-2], 6)
    out = svdprune.prune(backend.put(x), keep, center=center, select="pivoted")
    tokens, indices, scores, rank = (t.cpu() for t in out)
    assert torch.equal(tokens, torch.take_along_dim(x, indices[..., None], dim=-2))
    for image, *found in zip(
        x.view(-1, *shape[-2:]),
        indices.view(-1, keep),
        scores.view(-1, shape[-2]),
        rank.view(-1),
        strict=True,
    ):
        assert_is_the_oracles(image, keep, *found, center=center)


@on_backends("dtype", [torch.float64, torch.float32])
def test_no_more_tokens_than_features_have_something_of_their_own(backend, dtype):
    x = torch.stack([gaussian(60, 2, seed=seed, dtype=dtype) for seed in range(20)])
    x[..., 1] *= 1e-3  # so that what rounding leaves is not nothing
    rank = svdprune.prune(backend.put(x), 40, select="pivoted").rank
    assert (rank == 2).all()


@on_backends("dtype", [torch.float64, torch.float32])
def test_what_counts_as_nothing_and_as_equal(backend, dtype):
    eps = torch.finfo(dtype).eps
    copies = torch.stack([nearly_a_copy(n * eps, dtype) for n in (90, 180)])
    assert svdprune.prune(backend.put(copies), 2, select="pivoted").rank.tolist() == [1, 2]
    equals = torch.stack([nearly_equal(n * eps, dtype) for n in (20, 45)])
    indices = svdprune.prune(backend.put(equals), 1, select="pivoted").indices
    assert indices.tolist() == [[0], [1]]


# Several warps; more picks than registers hold; rows in global memory.
@on_backends(
    ("images", "tokens", "keep"),
    [(2, 600, 50), (1, 1100, 33), (1, 2880, 32)],
    quick=lambda images, tokens, keep: tokens < 2000,
)
def test_many_tokens(backend, images, tokens, keep):
    x = gaussian(images, tokens, 64)
    _, indices, scores, rank = svdprune.prune(backend.put(x), keep, select="pivoted")
    for image, *found in zip(x, indices.cpu(), scores.cpu(), rank.cpu(), strict=True):
        assert_is_the_oracles(image, keep, *found)


@pytest.mark.parametrize("coverage", [0.2, 0.9])
def test_prune_adaptive(backend, coverage):
    x = gaussian(2, 30, 40)
    out = svdprune.prune_adaptive(backend.put(x), 12, coverage=coverage, select="pivoted")
    tokens, indices, count, scores, rank = (t.cpu() for t in out)
    for b, n in enumerate(count.tolist()):
        assert_is_the_oracles(x[b], 12, indices[b, :n], scores[b], rank[b], coverage)
        assert (indices[b, n:] == -1).all()
        assert torch.equal(tokens[b, :n], x[b, indices[b, :n]])
        assert not tokens[b, n:].any()


@pytest.mark.parametrize("center", [False, True])
def test_prune_varlen(backend, center):
    lengths, keeps = [17, 0, 1, 40, 5], [4, 0, 1, 9, 0]
    x = gaussian(sum(lengths), 24)
    cu_seqlens, cu_keep = (torch.tensor([0, *n]).cumsum(0) for n in (lengths, keeps))
    moved = (backend.put(t) for t in (x, cu_seqlens.int(), cu_keep))
    out = svdprune.prune_varlen(*moved, center=center, select="pivoted")
    tokens, indices, scores, rank = (t.cpu() for t in out)
    assert torch.equal(tokens, x[indices])
    for b, keep in enumerate(keeps):
        image = slice(cu_seqlens[b], cu_seqlens[b + 1])
        kept = indices[cu_keep[b] : cu_keep[b + 1]] - cu_seqlens[b]
        assert_is_the_oracles(x[image], keep, kept, scores[image], rank[b], center=center)


def test_not_finite_marks_its_image_only(backend):
    x = gaussian(3, 20, 28)
    x[1, 2, 3] = float("nan")
    out = svdprune.prune(backend.put(x), 6, select="pivoted")
    assert out.rank.tolist()[1] == -1
    assert out.scores[1].isnan().all()
    assert out.indices[1].tolist() == [0, 1, 2, 3, 4, 5]
    for b in (0, 2):
        assert_is_the_oracles(x[b], 6, *(t[b].cpu() for t in out[1:]))
