"""What the CUDA kernels compute, run on the CPU: against the oracle and the CPU backend."""

import pytest
import torch
from agreement import assert_agrees
from emulated import Emulated, cuda_headers
from samples import VIEWS, gaussian, samples, view

import svdprune_ext as svdprune

pytestmark = pytest.mark.skipif(cuda_headers() is None, reason="no CUDA headers found")

SAMPLES = [s for s in samples() if s.make().numel() <= 40_000 and s.make().numel() > 0]
# Kernels keep scores in float32 here, and "eigh" in float32 is what computes the eigenvectors.
FLOAT32 = [s for s in SAMPLES if s.make().dtype != torch.float64]


def scored(library, x, *, center=False, cu_seqlens=None, **options):
    cuda = Emulated(library, x, cu_seqlens)
    means = cuda.means() if center else None
    largest = cuda.largest(means)
    tall = cuda.tokens > cuda.features
    packed = cuda.pack(torch.float32 if tall or center else x.dtype, means, largest)
    return cuda, *cuda.leverage(packed, largest, **options)


@pytest.mark.parametrize("sample", FLOAT32, ids=str)
def test_every_sample_agrees_with_the_oracle(library, sample):
    x = sample.make()
    batch = x if x.dim() == 3 else x[None]
    cuda, scores, ranks = scored(library, batch, **sample.options)
    tokens, indices, counts = cuda.keep(scores, ranks, sample.keep)
    options = {**sample.options, "solver": "eigh"}
    if sample.options.get("rank") and batch.shape[1] > batch.shape[2]:
        # A float32 Gram matrix counts fewer directions without energy than float64 does.
        assert (ranks <= sample.options["rank"]).all()
    else:
        assert_agrees(batch, scores, ranks, indices, options=options)
    assert torch.equal(tokens, torch.take_along_dim(batch, indices[..., None], dim=1))
    assert counts.tolist() == [sample.keep] * len(batch)


@pytest.mark.parametrize("keep", [0, 1, 32, 33, 70])
def test_select_and_gather_equal_the_cpu_backend(library, keep):
    x = gaussian(3, 70, 24)
    cpu = svdprune.prune(x, keep)
    cuda = Emulated(library, x)
    tokens, indices, counts = cuda.keep(cpu.scores, cpu.rank, keep)
    assert torch.equal(indices, cpu.indices)
    assert torch.equal(tokens, cpu.tokens)
    assert counts.tolist() == [keep] * 3


def test_ties_go_to_the_lower_index(library):
    x = gaussian(1, 600, 2)
    scores = torch.tensor([0.5, 0.25, 0.75]).repeat(200)[None]
    _, indices, _ = Emulated(library, x).keep(scores, torch.ones(1, dtype=torch.int32), 300)
    by_score = sorted(range(600), key=lambda i: (-scores[0, i].item(), i))
    assert indices[0].tolist() == sorted(by_score[:300])


@pytest.mark.parametrize("coverage", [0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("max_keep", [5, 70])
def test_coverage_equals_the_cpu_backend(library, coverage, max_keep):
    x = gaussian(2, 70, 24)
    cpu = svdprune.prune_adaptive(x, max_keep, coverage=coverage)
    cuda = Emulated(library, x)
    tokens, indices, counts = cuda.keep(cpu.scores, cpu.rank, max_keep, coverage)
    assert torch.equal(counts, cpu.count)
    assert torch.equal(indices, cpu.indices)
    assert torch.equal(tokens, cpu.tokens)


def test_an_image_without_energy_covers_nothing(library):
    x = torch.zeros(1, 40, 50)
    cuda, scores, ranks = scored(library, x)
    assert ranks.tolist() == [0]
    assert not scores.any()
    tokens, indices, counts = cuda.keep(scores, ranks, 6, 0.9)
    assert counts.tolist() == [0]
    assert indices.tolist() == [[-1] * 6]
    assert not tokens.any()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("coverage", [0, 0.5])
def test_an_image_that_is_not_finite_is_marked(library, bad, coverage):
    x = gaussian(3, 40, 50)
    x[1, 7, 3] = bad
    cuda, scores, ranks = scored(library, x)
    assert ranks.tolist()[1] == -1
    assert scores[1].isnan().all()
    assert not scores[[0, 2]].isnan().any()
    assert (ranks[[0, 2]] > 0).all()
    tokens, indices, _ = cuda.keep(scores, ranks, 6, coverage)
    assert indices[1].tolist() == list(range(6))
    assert torch.equal(tokens[1].isnan(), x[1, :6].isnan())


def test_a_failed_decomposition_is_marked(library):
    info = torch.tensor([0, 3], dtype=torch.int32)
    _, scores, ranks = scored(library, gaussian(2, 20, 30), info=info)
    assert ranks[0] > 0
    assert ranks[1] == -1
    assert scores[1].isnan().all()


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("rank", [None, 3])
def test_packed_images(library, center, rank):
    lengths, keeps = [17, 0, 1, 40, 5], [4, 0, 1, 9, 0]
    x = gaussian(sum(lengths), 48)
    cu_seqlens, cu_keep = torch.tensor([0, *lengths]).cumsum(0), torch.tensor([0, *keeps]).cumsum(0)
    cpu = svdprune.prune_varlen(x, cu_seqlens, cu_keep, center=center, rank=rank)
    cuda, scores, ranks = scored(library, x, cu_seqlens=cu_seqlens, center=center, rank=rank)
    assert torch.equal(ranks, cpu.rank)
    torch.testing.assert_close(scores, cpu.scores, atol=2e-5, rtol=0)
    tokens, indices, _ = cuda.keep(cpu.scores, ranks, cu_keep)
    assert torch.equal(indices, cpu.indices)
    assert torch.equal(tokens, cpu.tokens)


def test_a_packed_images_directions_without_energy_are_not_counted(library):
    x = gaussian(25, 48)  # 20 and 5 tokens, of which centring leaves 19 and 4 directions
    _, scores, ranks = scored(
        library, x, cu_seqlens=torch.tensor([0, 20, 25]), center=True, rank=20
    )
    assert ranks.tolist() == [19, 4]
    torch.testing.assert_close(scores[20:].sum(), torch.tensor(4.0), atol=1e-4, rtol=0)


def test_offsets_out_of_range_stay_inside_the_tensors(library):
    x = gaussian(20, 8)
    wild = torch.tensor([0, 9, 500, -4, 20])
    cuda = Emulated(library, x, torch.tensor([0, 5, 10, 15, 20]))
    cuda._args.cu_seqlens, cuda._args.tokens = wild.data_ptr(), 20
    scores, ranks = torch.rand(20), torch.ones(4, dtype=torch.int32)
    _, indices, _ = cuda.keep(scores, ranks, torch.tensor([0, 3, 900, -2, 8]))
    assert indices[:3].unique().numel() == 3  # the first image's offsets are right
    assert (indices < 20).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", VIEWS)
def test_rows_of_any_dtype_and_strides(library, dtype, name):
    x = view(name, dtype)
    scores = torch.rand(2, 12, generator=torch.Generator().manual_seed(0))
    tokens, indices, _ = Emulated(library, x).keep(scores, torch.ones(2, dtype=torch.int32), 5)
    assert torch.equal(tokens, torch.take_along_dim(x, indices[..., None], dim=1))


@pytest.mark.parametrize("exponent", [-140, -60, -20, 0, 20, 59, 60, 120])
def test_every_scale_is_brought_into_range(library, exponent):
    x = torch.ldexp(gaussian(1, 16, 24), torch.tensor(exponent))
    _, scores, ranks = scored(library, x)
    assert_agrees(x, scores, ranks, options={"solver": "eigh"})


def test_means_and_magnitude(library):
    x = gaussian(2, 37, 45)
    cuda = Emulated(library, x)
    means = cuda.means()
    torch.testing.assert_close(means, x.double().mean(1), atol=1e-12, rtol=0)
    assert torch.equal(cuda.largest(), x.double().abs().amax((1, 2)))
    centred = (x.double() - means[:, None]).abs().amax((1, 2))
    torch.testing.assert_close(cuda.largest(means), centred, atol=1e-12, rtol=0)
