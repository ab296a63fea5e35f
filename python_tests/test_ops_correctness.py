"""Every operator against the float64 oracle, on every sample."""

import pytest
import torch
from agreement import assert_agrees
from samples import gaussian, samples

import svdprune_ext as svdprune
from svdprune_ext.reference import oracle_coverage

every_sample = pytest.mark.parametrize("sample", samples(), ids=str)


def score_dtype(x):
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def rows_of(x, indices):
    return torch.take_along_dim(x, indices[..., None], dim=-2)


def same_bits(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)


@pytest.mark.parametrize("solver", ["tridiag", "eigh", "purify"])
@every_sample
def test_leverage_scores(sample, solver):
    x = sample.make()
    options = {**sample.options, "solver": solver}
    scores, rank = svdprune.leverage_scores(x, **options)
    assert scores.shape == x.shape[:-1]
    assert scores.dtype == score_dtype(x)
    assert rank.shape == x.shape[:-2]
    assert rank.dtype == torch.int32
    assert_agrees(x, scores, rank, options=options)


@every_sample
def test_prune(sample):
    x = sample.make()
    before = x.clone()
    out = svdprune.prune(x, sample.keep, **sample.options)
    assert out.indices.shape == (*x.shape[:-2], sample.keep)
    assert out.indices.dtype == torch.int64
    assert (out.indices.diff(dim=-1) > 0).all()
    assert same_bits(out.tokens, rows_of(x, out.indices))
    assert out.tokens.is_contiguous()
    assert torch.equal(x, before)
    alone = svdprune.leverage_scores(x, **sample.options)
    assert same_bits(out.scores, alone.scores)
    assert same_bits(out.rank, alone.rank)
    assert_agrees(x, out.scores, out.rank, out.indices, options=sample.options)


@pytest.mark.parametrize("coverage", [0.3, 0.9, 1.0])
@every_sample
def test_prune_adaptive(sample, coverage):
    x = sample.make()
    out = svdprune.prune_adaptive(x, sample.keep, coverage=coverage, **sample.options)
    batch = x.shape[:-2]
    assert out.tokens.shape == (*batch, sample.keep, x.shape[-1])
    assert out.tokens.dtype == x.dtype
    assert out.indices.shape == (*batch, sample.keep)
    assert out.indices.dtype == torch.int64
    assert out.count.shape == batch
    assert out.count.dtype == torch.int32
    assert_agrees(x, out.scores, out.rank, options=sample.options)

    images = x if x.dim() == 3 else x[None]
    for image, tokens, indices, count, scores in zip(
        images,
        out.tokens.reshape(len(images), sample.keep, x.shape[-1]),
        out.indices.reshape(len(images), sample.keep),
        out.count.reshape(-1),
        out.scores.reshape(len(images), x.shape[-2]),
        strict=True,
    ):
        # At coverage 1 the last of many terms decides, which depends on the order of the sum.
        if coverage < 1:
            expected = oracle_coverage(scores.double(), sample.keep, coverage)
            assert indices[:count].tolist() == expected.tolist()
        assert (indices[:count].diff() > 0).all()
        assert (indices[count:] == -1).all()
        assert same_bits(tokens[:count], image[indices[:count]])
        assert not tokens[count:].any()


@every_sample
def test_prune_varlen_of_one_image_equals_prune(sample):
    x = sample.make()
    x = x if x.dim() == 2 else x[0]
    offsets = torch.tensor([0, len(x)], dtype=torch.int32)
    keeps = torch.tensor([0, sample.keep], dtype=torch.int32)
    packed = svdprune.prune_varlen(x, offsets, keeps, **sample.options)
    alone = svdprune.prune(x, sample.keep, **sample.options)
    assert same_bits(packed.tokens, alone.tokens)
    assert same_bits(packed.indices, alone.indices)
    assert same_bits(packed.scores, alone.scores)
    assert packed.rank.tolist() == [alone.rank.item()]


@pytest.mark.parametrize("offsets_dtype", [torch.int32, torch.int64], ids=str)
@pytest.mark.parametrize("rank", [None, 6])
@pytest.mark.parametrize("center", [False, True])
def test_prune_varlen_equals_a_loop(offsets_dtype, rank, center):
    lengths, keeps = [17, 0, 1, 40, 5], [4, 0, 1, 9, 0]
    x = gaussian(sum(lengths), 24)
    cu_seqlens = torch.tensor([0, *lengths]).cumsum(0).to(offsets_dtype)
    cu_keep = torch.tensor([0, *keeps]).cumsum(0).to(offsets_dtype)
    out = svdprune.prune_varlen(x, cu_seqlens, cu_keep, rank=rank, center=center)
    assert out.tokens.shape == (sum(keeps), 24)
    assert out.rank.dtype == torch.int32
    assert same_bits(out.tokens, x[out.indices])
    for b, (length, keep) in enumerate(zip(lengths, keeps, strict=True)):
        first, kept = int(cu_seqlens[b]), int(cu_keep[b])
        own_rank = min(rank, length) if rank and length else None
        one = svdprune.prune(x[first : first + length], keep, rank=own_rank, center=center)
        assert same_bits(out.indices[kept : kept + keep], one.indices + first)
        # BLAS sums one image on several threads, in another order.
        torch.testing.assert_close(
            out.scores[first : first + length], one.scores, atol=1e-5, rtol=0
        )
        assert out.rank[b] == one.rank


def test_prune_varlen_reads_its_totals_from_the_offsets_or_is_told():
    x = gaussian(20, 8)
    offsets, keeps = torch.tensor([0, 12, 20]), torch.tensor([0, 3, 5])
    told = svdprune.prune_varlen(x, offsets, keeps, total_keep=5, max_seqlen=15)
    assert same_bits(told.indices, svdprune.prune_varlen(x, offsets, keeps).indices)


def test_prune_varlen_reads_strided_offsets():
    x = gaussian(20, 8)
    offsets, keeps = torch.tensor([0, 7, 12, 7, 20]), torch.tensor([0, 1, 3, 1, 5])
    out = svdprune.prune_varlen(x, offsets[::2], keeps[::2])
    expected = svdprune.prune_varlen(x, torch.tensor([0, 12, 20]), torch.tensor([0, 3, 5]))
    assert same_bits(out.indices, expected.indices)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(0, 6, 4), (2, 0, 4), (0, 4), (0, 0, 4), (3, 0)], ids=str)
def test_empty_input(shape, dtype):
    x = torch.zeros(shape, dtype=dtype)
    tokens, indices, scores, rank = svdprune.prune(x, 0)
    assert tokens.shape == (*shape[:-2], 0, shape[-1])
    assert tokens.dtype == dtype
    assert indices.shape == (*shape[:-2], 0)
    assert scores.shape == shape[:-1]
    assert rank.shape == shape[:-2]
    assert not rank.any()
    assert not scores.any()
    assert svdprune.prune_adaptive(x, 0, coverage=0.5).count.shape == shape[:-2]


def test_empty_batch_keeps_the_shape_of_its_result():
    out = svdprune.prune(torch.zeros(0, 6, 4), 2)
    assert out.tokens.shape == (0, 2, 4)
    assert out.indices.shape == (0, 2)


def test_no_features_keeps_the_first_tokens():
    out = svdprune.prune(torch.zeros(5, 0), 3)
    assert out.indices.tolist() == [0, 1, 2]
    assert out.tokens.shape == (3, 0)


def test_prune_varlen_of_no_image():
    zero = torch.tensor([0])
    out = svdprune.prune_varlen(torch.zeros(0, 4), zero, zero)
    assert out.tokens.shape == (0, 4)
    assert out.rank.shape == (0,)


def test_zeros_keep_the_first_tokens():
    assert svdprune.prune(torch.zeros(2, 7, 5), 3).indices.tolist() == [[0, 1, 2]] * 2


@pytest.mark.parametrize("solver", ["auto", "eigh", "purify"])
def test_solvers(solver):
    x = gaussian(30, 40)
    out = svdprune.prune(x, 7, solver=solver)
    assert_agrees(x, out.scores, out.rank, out.indices, options={})


@pytest.mark.parametrize("shape", [(32, 64), (200, 16)], ids=str)
def test_every_scale_of_float32(shape):
    x = gaussian(*shape) * 0.7 + gaussian(shape[1], seed=1)
    for exponent in range(-140, 126):
        scaled = torch.ldexp(x, torch.tensor(exponent))
        scores, rank = svdprune.leverage_scores(scaled)
        assert_agrees(scaled, scores, rank, options={})


def test_centering_at_the_end_of_float64():
    x = 1e308 * (0.5 + 0.1 * gaussian(8, 4, dtype=torch.float64))
    scores, rank = svdprune.leverage_scores(x, center=True)
    assert_agrees(x, scores, rank, options={"center": True})
