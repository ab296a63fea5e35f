"""What solver "tridiag" does on CUDA: when it runs, when it stops, and what it refuses to lose."""

from itertools import product

import pytest
import torch
from agreement import assert_agrees
from backends import on_backends
from cuda_calls import assert_same_bits, needs_cuda
from hard_cases import hard_case, plateaus
from samples import behind_a_coupling, gaussian, orthonormal, photograph, power_law, with_spectrum

import svdprune_ext as svdprune


def has_clusters():
    return torch.cuda.get_device_capability() >= (9, 0)


def ran(x, **options):
    """Names of the solvers that ran for x, and the steps taken."""
    found = svdprune.diagnose(x, solver="tridiag", **options)
    return found.solver, found.steps.cpu()


def unit_vectors():
    return torch.eye(200, 256)


def orthonormal_tokens():
    return orthonormal(300, 100).mT.float().contiguous()


def duplicated_units():
    return torch.eye(40).repeat_interleave(4, dim=0)


def assert_tridiag_agrees(backend, x, keep, **options):
    out = svdprune.prune(backend.put(x), keep, solver="tridiag", **options)
    tokens, indices, scores, rank = (t.cpu() for t in out)
    assert_agrees(x, scores, rank, indices, options={**options, "solver": "eigh"})
    assert torch.equal(tokens, torch.take_along_dim(x, indices[..., None], dim=-2))


@on_backends(
    ("tokens", "images"),
    product([1, 12, 60, 256, 257, 576, 577, 768, 769, 1024], [1, 8, 9]),
    quick=lambda tokens, images: tokens * images <= 12 * 9,
)
def test_it_runs_where_an_image_fits_on_chip(backend, tokens, images):
    if backend.name == "cuda" and not has_clusters():
        pytest.skip("no clusters of blocks: the GPU is older than sm_90")
    x = gaussian(images, tokens, 96)
    solvers, steps = ran(backend.put(x))
    # Above 768 a cluster must have 16 blocks, which not every GPU grants; those named here do.
    if backend.has_room_for_images and (tokens <= 768 or backend.has_clusters_of_16):
        assert solvers == ["tridiag"] * images
    assert ((steps >= 1) & (steps <= tokens)).all()
    assert_tridiag_agrees(backend, x, min(tokens, 16))


@on_backends(
    ("shape", "dtype"),
    [((1025, 1030), torch.float32), ((60, 80), torch.float64)],
    quick=lambda shape, dtype: dtype == torch.float64,
)
def test_elsewhere_eigh_stands_in(backend, shape, dtype):
    x = gaussian(*shape, dtype=dtype)
    assert ran(backend.put(x))[0] == ["eigh"]
    out = svdprune.prune(backend.put(x), 8, solver="tridiag")
    assert_same_bits(out, svdprune.prune(backend.put(x), 8, solver="eigh"))


@needs_cuda
def test_without_clusters_eigh_stands_in():
    if has_clusters():
        pytest.skip("this GPU has clusters of blocks")
    assert ran(gaussian(60, 80).cuda())[0] == ["eigh"]


@needs_cuda
def test_few_directions_end_the_reduction_early():
    if not has_clusters():
        pytest.skip("no clusters of blocks: the GPU is older than sm_90")
    _, steps = ran(torch.stack([photograph(), gaussian(576, 1024)]).cuda())
    assert steps[0] < 200
    assert steps[1] == 576


@on_backends("seed", range(300), quick=lambda seed: seed < 40)
def test_hard_spectra(backend, seed):
    x, options = hard_case(seed)
    assert_tridiag_agrees(backend, x, min(8, len(x)), **options)


@on_backends("seed", range(300), quick=lambda seed: seed < 20)
def test_plateaus_on_both_sides_of_the_cut(backend, seed):
    x, options = plateaus(seed)
    if x.shape[0] > x.shape[1]:  # where directions at rounding's edge are not counted
        x = x.mT.contiguous()
    assert_tridiag_agrees(backend, x, 8, **options)


@on_backends("place", range(1, 20))
def test_an_eigenvalue_behind_a_coupling_is_not_missed(backend, place):
    assert_tridiag_agrees(backend, behind_a_coupling(40, place), 2, rank=1)


@on_backends("exponent", [-140, -100, -64, -39, 39, 59, 64, 120], quick=lambda _: False)
def test_every_scale(backend, exponent):
    x = torch.ldexp(gaussian(2, 90, 120), torch.tensor(exponent))
    assert_tridiag_agrees(backend, x, 6)


@on_backends(
    "make",
    [unit_vectors, orthonormal_tokens, duplicated_units],
    quick=lambda _: False,
)
def test_multiple_eigenvalues(backend, make):
    x = make()
    assert_tridiag_agrees(backend, x, 9, variance=0.5)


@needs_cuda
def test_calls_give_the_same_bits_while_the_device_is_busy():
    x = with_spectrum(576, 1024, power_law(576, 1.5)).cuda()
    expected = svdprune.prune(x, 32, solver="tridiag")
    streams = [torch.cuda.Stream() for _ in range(4)]
    for _ in range(5):
        results = []
        for stream in streams:
            with torch.cuda.stream(stream):
                results.append(svdprune.prune(x, 32, solver="tridiag"))
        torch.cuda.synchronize()
        for got in results:
            assert_same_bits(got, expected)
