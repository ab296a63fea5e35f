"""The kernel eig_select, run on the CPU: against the oracle, the CPU backend and itself."""

import pytest
import torch
from agreement import assert_agrees
from emulated import Emulated, cuda_headers
from emulated_tridiag import Shape, eig_select, gram_of, shared_bytes, two_launches
from hard_cases import hard_case
from samples import VIEWS, blocks, gaussian, orthonormal, power_law, samples, view, with_spectrum

import svdprune_ext as svdprune
from svdprune_ext.reference import oracle_coverage

pytestmark = pytest.mark.skipif(cuda_headers() is None, reason="no CUDA headers found")

FLOAT32 = [
    s
    for s in samples()
    if s.make().dtype != torch.float64 and s.make().numel() > 0 and s.make().shape[-2] <= 130
]
SHAPES = [Shape(1, 32), Shape(2, 96), Shape(4, 64), Shape(16, 32)]
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s.blocks}x{s.threads}")


def packed_for(library, x, center):
    """What stage 1 is given in place of x, and the magnitudes, where x is centred."""
    if not center:
        return None, None
    cuda = Emulated(library, x)
    means = cuda.means()
    largest = cuda.largest(means)
    return gram_of(cuda.pack(torch.float32, means, largest)), largest


def promised(options):
    """A float32 Gram matrix is what both solvers have on CUDA, so both promise the same."""
    return {**options, "solver": "eigh"}


@pytest.mark.parametrize("sample", FLOAT32, ids=str)
def test_every_sample_agrees_with_the_oracle(library, sample):
    x = sample.make()
    batch = x if x.dim() == 3 else x[None]
    gram, largest = packed_for(library, batch, sample.center)
    found = eig_select(
        library,
        batch,
        sample.keep,
        variance=sample.variance,
        rank=sample.rank,
        gram=gram,
        largest=largest,
    )
    if sample.rank and batch.shape[1] > batch.shape[2]:
        # A float32 Gram matrix counts fewer directions without energy than float64 does.
        assert (found.rank <= sample.rank).all()
        assert (found.scores.sum(-1) - found.rank).abs().max() < 1e-4
    else:
        assert_agrees(
            batch, found.scores, found.rank, found.indices, options=promised(sample.options)
        )
    assert torch.equal(found.tokens, torch.take_along_dim(batch, found.indices[..., None], dim=1))
    assert found.count.tolist() == [sample.keep] * len(batch)


@pytest.mark.parametrize("seed", range(24))
def test_random_spectra(library, seed):
    x, options = hard_case(seed, largest=56)
    options = {**options, "center": False}
    found = eig_select(library, x[None], min(8, len(x)), variance=options["variance"])
    assert_agrees(x[None], found.scores, found.rank, found.indices, options=promised(options))


def outlying():
    x = gaussian(60, 80)
    x[3::29] *= 40
    return x


SPECTRA = {
    "power law 1": lambda: with_spectrum(60, 80, power_law(60, 1.0)),
    "power law 2": lambda: with_spectrum(60, 80, power_law(60, 2.0)),
    "outliers": outlying,
    "duplicates": lambda: gaussian(20, 80).repeat(3, 1),
    "flat": lambda: gaussian(60, 80),
    "blind start": lambda: blocks(60, 80, weak=0.2),
    "clusters": lambda: with_spectrum(60, 80, 1 + 1e-5 * power_law(60, 1.0)),
}


@every_shape
@pytest.mark.parametrize("name", SPECTRA)
def test_the_partition_does_not_matter(library, name, shape):
    # 60 tokens: 16 blocks have 3 or 4 rows each, 2 blocks of 3 warps have 30.
    x = SPECTRA[name]()[None]
    found = eig_select(library, x, 12, shape=shape)
    if name == "clusters":  # the cut lies within rounding: the scores are one choice of many
        assert_agrees(x, found.scores, found.rank, found.indices, options=promised({}))
        return
    cpu = svdprune.prune(x, 12, solver="tridiag")
    assert torch.equal(found.rank, cpu.rank)
    torch.testing.assert_close(found.scores, cpu.scores, atol=2e-5, rtol=0)
    if name != "duplicates":  # whose scores are equal but for rounding
        assert torch.equal(found.indices, cpu.indices)
        assert torch.equal(found.tokens, cpu.tokens)


@pytest.mark.parametrize("name", ["power law 2", "flat", "duplicates"])
def test_threads_in_the_opposite_order_give_the_same_bits(library, name):
    x = SPECTRA[name]()[None]
    runs = [
        eig_select(library, x, 12, shape=Shape(4, 96), backwards=backwards)
        for backwards in (False, False, True)
    ]
    for run in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0].all, run.all, strict=True))


def test_an_image_has_the_same_bits_alone_and_in_a_batch(library):
    x = gaussian(3, 30, 40)
    gram = gram_of(x)
    together = eig_select(library, x, 7, gram=gram)
    alone = eig_select(library, x[1:2], 7, gram=gram[1:2])
    assert torch.equal(together.scores[1], alone.scores[0])
    assert torch.equal(together.indices[1], alone.indices[0])


@pytest.mark.parametrize(
    ("tokens", "shape", "backwards"),
    [
        (300, Shape(16, 64), False),
        (576, Shape(8, 256), False),  # with as many threads as on a GPU: some rows not in registers
        (600, Shape(8, 256), True),
        (600, Shape(16, 256), False),
        (769, Shape(16, 32), False),
        (1000, Shape(8, 64), True),
        (1024, Shape(16, 64), False),
    ],
    ids=lambda value: f"{value.blocks}x{value.threads}" if isinstance(value, Shape) else str(value),
)
def test_many_tokens(library, tokens, shape, backwards):
    x = with_spectrum(tokens, 64, power_law(64, 3.0))[None]
    found = eig_select(library, x, 16, shape=shape, backwards=backwards)
    cpu = svdprune.prune(x, 16, solver="tridiag")
    assert found.steps < 50
    assert torch.equal(found.rank, cpu.rank)
    torch.testing.assert_close(found.scores, cpu.scores, atol=2e-5, rtol=0)
    assert torch.equal(found.indices, cpu.indices)


def test_the_probe_ends_the_reduction_where_the_bound_cannot(library):
    # The bound of Note [hidden eigenvalues] alone would let it go to the end.
    x = with_spectrum(128, 160, power_law(128, 1.5))[None]
    found = eig_select(library, x, 16)
    cpu = svdprune.diagnose(x, solver="tridiag")
    assert torch.equal(found.rank, cpu.rank)
    assert found.steps <= 1.2 * cpu.steps


def test_few_directions_end_the_reduction_early(library):
    few = with_spectrum(100, 128, power_law(100, 3.0), seed=1)
    flat = gaussian(100, 128)
    found = eig_select(library, torch.stack([few, flat]))
    assert found.steps[0] < 50
    assert found.steps[1] == 100


@pytest.mark.parametrize("variance", [0.5, 0.9])
def test_energy_that_the_start_does_not_see_is_not_missed(library, variance):
    # Two orthogonal halves, the stronger one unseen from token 0.
    x = blocks(64, 96, weak=1e-3)[None]
    found = eig_select(library, x, 6, variance=variance)
    assert_agrees(
        x, found.scores, found.rank, found.indices, options=promised({"variance": variance})
    )


def test_an_eigenvalue_that_the_start_does_not_see_is_not_missed(library):
    # The tokens seen from token 0 hold the energy asked for, but the others have the second direction.
    x = torch.zeros(80, 96)
    x[:60, :60] = with_spectrum(60, 60, power_law(20, 1.0), seed=1)
    x[60:, 60:] = with_spectrum(20, 36, torch.tensor([0.6]), seed=2)
    found = eig_select(library, x[None], 6, variance=0.6)
    assert found.rank.tolist() == [5]
    assert_agrees(
        x[None], found.scores, found.rank, found.indices, options=promised({"variance": 0.6})
    )


# Multiple eigenvalues.


@every_shape
@pytest.mark.parametrize(
    ("x", "variance"),
    [
        (torch.eye(20, 32), 0.5),
        (orthonormal(40, 24).mT.float().contiguous(), 0.4),
        (torch.eye(8).repeat_interleave(4, dim=0), 0.5),
        (torch.block_diag(*[torch.ones(3, 5)] * 6), 0.6),
        (torch.eye(20, 32), 1.0),
    ],
    ids=["unit vectors", "orthonormal", "duplicated units", "blocks", "whole energy"],
)
def test_vectors_of_a_multiple_eigenvalue_stay_orthogonal(library, x, variance, shape):
    found = eig_select(library, x[None], 5, variance=variance, shape=shape)
    assert_agrees(
        x[None], found.scores, found.rank, found.indices, options=promised({"variance": variance})
    )
    assert abs(found.scores.sum().item() - found.rank.item()) < 1e-4


# Scales, and what is not finite.


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("exponent", [-140, -100, -64, -45, -39, 0, 39, 45, 59, 64, 100, 120])
def test_every_scale_gives_the_same(library, exponent, dtype):
    x = gaussian(1, 20, 26).to(dtype)
    scaled = torch.ldexp(x, torch.tensor(exponent)).to(dtype)
    found = eig_select(library, scaled, 6)
    assert_agrees(scaled, found.scores, found.rank, found.indices, options=promised({}))
    if exponent > -110:
        assert torch.equal(found.indices, eig_select(library, x, 6).indices)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("coverage", [0, 0.5])
@pytest.mark.parametrize("center", [False, True])
def test_an_image_that_is_not_finite_is_marked(library, bad, coverage, center):
    x = gaussian(3, 24, 30)
    x[1, 7, 3] = bad
    gram, largest = packed_for(library, x, center)
    found = eig_select(library, x, 6, coverage=coverage, gram=gram, largest=largest)
    assert found.rank.tolist()[1] == -1
    assert found.scores[1].isnan().all()
    assert not found.scores[[0, 2]].isnan().any()
    assert (found.rank[[0, 2]] > 0).all()
    assert found.indices[1].tolist() == list(range(6))
    assert torch.equal(found.tokens[1].isnan(), x[1, :6].isnan())


def test_an_image_without_energy(library):
    x = torch.zeros(1, 20, 26)
    found = eig_select(library, x, 6)
    assert (found.rank.tolist(), found.steps.tolist()) == ([0], [0])
    assert not found.scores.any()
    assert found.indices.tolist() == [list(range(6))]
    covering = eig_select(library, x, 6, coverage=0.9)
    assert covering.count.tolist() == [0]
    assert covering.indices.tolist() == [[-1] * 6]
    assert not covering.tokens.any()


# Selection, packed images, strides.


@every_shape
@pytest.mark.parametrize("coverage", [0.1, 0.6, 1.0])
@pytest.mark.parametrize("max_keep", [5, 40])
def test_coverage(library, coverage, max_keep, shape):
    x = gaussian(2, 40, 50)
    found = eig_select(library, x, max_keep, coverage=coverage, shape=shape)
    for b in range(2):
        expected = oracle_coverage(found.scores[b].double(), max_keep, coverage).tolist()
        count = int(found.count[b])
        assert found.indices[b, :count].tolist() == expected
        assert (found.indices[b, count:] == -1).all()
        assert torch.equal(found.tokens[b, :count], x[b, expected])
        assert not found.tokens[b, count:].any()


@every_shape
@pytest.mark.parametrize("rank", [None, 3])
def test_packed_images(library, rank, shape):
    lengths, keeps = [17, 0, 1, 40, 5], [4, 0, 1, 9, 0]
    x = gaussian(sum(lengths), 48)
    cu_seqlens, cu_keep = torch.tensor([0, *lengths]).cumsum(0), torch.tensor([0, *keeps]).cumsum(0)
    cpu = svdprune.prune_varlen(x, cu_seqlens, cu_keep, rank=rank, solver="tridiag")
    found = eig_select(library, x, cu_keep, rank=rank, cu_seqlens=cu_seqlens, shape=shape)
    assert torch.equal(found.rank, cpu.rank)
    torch.testing.assert_close(found.scores, cpu.scores, atol=2e-5, rtol=0)
    assert torch.equal(found.indices, cpu.indices)
    assert torch.equal(found.tokens, cpu.tokens)
    assert found.count.tolist() == keeps


def test_a_packed_images_directions_without_energy_are_not_counted(library):
    x, cu_seqlens = gaussian(25, 48), torch.tensor([0, 20, 25])
    cuda = Emulated(library, x, cu_seqlens)
    means = cuda.means()  # without which 19 and 4 directions are left
    largest = cuda.largest(means)
    gram = gram_of(cuda.pack(torch.float32, means, largest))
    found = eig_select(library, x, rank=20, cu_seqlens=cu_seqlens, gram=gram, largest=largest)
    assert found.rank.tolist() == [19, 4]
    torch.testing.assert_close(found.scores[20:].sum(), torch.tensor(4.0), atol=1e-4, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", VIEWS)
def test_rows_of_any_dtype_and_strides(library, dtype, name):
    x = view(name, dtype)
    found = eig_select(library, x, 5)
    assert torch.equal(found.tokens, torch.take_along_dim(x, found.indices[..., None], dim=1))


# Behind the kernel that forms the Gram matrix.


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(2, 70, 90), (2, 90, 40), (1, 1, 5), (1, 20, 3)], ids=str)
def test_two_launches_from_features_to_tokens(library, shape, dtype):
    x = gaussian(*shape, dtype=dtype)
    keep = min(9, shape[1])
    found = two_launches(library, x, keep)
    cpu = svdprune.prune(x, keep, solver="tridiag")
    assert_agrees(x, found.scores, found.rank, found.indices, options=promised({}))
    torch.testing.assert_close(found.scores, cpu.scores, atol=1e-4, rtol=0)
    assert torch.equal(found.tokens, torch.take_along_dim(x, found.indices[..., None], dim=1))


@pytest.mark.parametrize("exponent", [-140, -66, -45, 45, 62, 66, 120])
def test_two_launches_at_scales_whose_squares_leave_the_range(library, exponent):
    x = torch.ldexp(gaussian(2, 20, 26), torch.tensor(exponent))
    found = two_launches(library, x, 6)
    assert_agrees(x, found.scores, found.rank, found.indices, options=promised({}))


def test_two_launches_on_images_of_every_kind(library):
    x = gaussian(5, 24, 30)
    x[1, 7, 3] = float("nan")
    x[2] = 0
    x[3] = torch.eye(24, 30)
    x[4] *= 1e30
    found = two_launches(library, x, 6)
    assert found.rank.tolist()[1:3] == [-1, 0]
    assert found.scores[1].isnan().all()
    assert found.indices[1:3].tolist() == [list(range(6))] * 2
    good = [0, 3, 4]
    assert_agrees(
        x[good], found.scores[good], found.rank[good], found.indices[good], options=promised({})
    )


def test_two_launches_on_packed_images(library):
    lengths, keeps = [17, 0, 1, 40, 5], [4, 0, 1, 9, 0]
    x = gaussian(sum(lengths), 48)
    cu_seqlens, cu_keep = torch.tensor([0, *lengths]).cumsum(0), torch.tensor([0, *keeps]).cumsum(0)
    cpu = svdprune.prune_varlen(x, cu_seqlens, cu_keep, solver="tridiag")
    found = two_launches(library, x, cu_keep, cu_seqlens)
    assert torch.equal(found.indices, cpu.indices)
    assert torch.equal(found.tokens, cpu.tokens)
    torch.testing.assert_close(found.scores, cpu.scores, atol=2e-5, rtol=0)


def test_what_fits_on_chip(library):
    # 227 KB a block on sm_90 and sm_100.
    limit = 232_448
    for tokens in (256, 576, 768, 1024):
        assert 0 < shared_bytes(library, tokens, Shape(16, 512)) <= limit
    for tokens in (256, 576, 768):
        assert 0 < shared_bytes(library, tokens, Shape(8, 512)) <= limit
    assert shared_bytes(library, 1024, Shape(8, 512)) > limit
    assert shared_bytes(library, 1025, Shape(16, 512)) == 0
