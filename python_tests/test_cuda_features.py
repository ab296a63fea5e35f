"""Solver "tridiag" on CUDA of more tokens than its kernel has room for: on the features' side."""

from itertools import product

import torch
from agreement import assert_agrees
from backends import on_backends
from cuda_calls import assert_same_bits
from samples import gaussian, outliers, power_law, with_spectrum
from test_cuda import assert_packed_agrees, assert_prune_agrees, on_cpu

import svdprune_ext as svdprune

FEW = 48  # features that the emulation is quick with
SIZES = [(1025, 8), (1100, FEW), (2880, 1024), (3000, 577), (16384, 64), (20000, 300)]


def is_small(shape):
    return shape[0] <= 1100


@on_backends("shape", SIZES, quick=is_small)
def test_it_runs_on_the_smaller_side(backend, shape):
    x = backend.put(gaussian(2, *shape))
    found = svdprune.diagnose(x)
    if not backend.has_room_for_images or shape[1] > 576:
        assert set(found.solver) <= {"tridiag", "eigh"}
    else:
        assert found.solver == ["tridiag"] * 2
    assert found.size.tolist() == [shape[1]] * 2
    assert ((found.steps >= 1) & (found.steps <= shape[1])).all()
    assert_same_bits(svdprune.prune(x, 9), svdprune.prune(x, 9, solver="purify"))


@on_backends(
    ("shape", "dtype", "center"),
    product(SIZES, [torch.float32, torch.bfloat16, torch.float16], [False, True]),
    quick=lambda shape, dtype, center: is_small(shape) and center == (dtype == torch.float32),
)
def test_flat_spectra(backend, shape, dtype, center):
    assert_prune_agrees(backend, gaussian(*shape, dtype=dtype), 32, {"center": center})


@on_backends(
    ("shape", "exponent", "variance"),
    product(SIZES, [0.5, 1.0, 2.0], [0.5, 0.9, 0.99]),
    quick=lambda shape, exponent, variance: shape == (1100, FEW) and variance == 0.9,
)
def test_power_laws(backend, shape, exponent, variance):
    x = with_spectrum(*shape, power_law(shape[1], exponent))
    assert_prune_agrees(backend, x, 32, {"variance": variance})


@on_backends("rank", [1, 7, 30, FEW], quick=lambda _: True)
def test_explicit_ranks(backend, rank):
    assert_prune_agrees(backend, gaussian(1100, FEW), 32, {"rank": rank})


def few_directions():
    return with_spectrum(1100, FEW, power_law(12, 1.0))


def multiple_eigenvalues():
    return torch.eye(FEW).repeat(24, 1)


def massive_tokens():
    return outliers(1100, FEW, 1e3)


def without_energy():
    return torch.zeros(1100, FEW)


def an_image_without_energy():
    return torch.stack([gaussian(1100, FEW), torch.zeros(1100, FEW), massive_tokens()])


@on_backends(
    "make",
    [few_directions, multiple_eigenvalues, massive_tokens, without_energy, an_image_without_energy],
)
def test_hard_spectra(backend, make):
    assert_prune_agrees(backend, make(), 24)


@on_backends("exponent", [-140, -100, -39, 39, 64, 120])
def test_every_scale(backend, exponent):
    x = torch.ldexp(gaussian(1100, 20), torch.tensor(exponent))
    assert_prune_agrees(backend, x, 16)


@on_backends("coverage", [0.2, 0.8])
def test_a_budget_by_coverage(backend, coverage):
    x = gaussian(2, 1100, 20)
    out = svdprune.prune_adaptive(backend.put(x), 1000, coverage=coverage)
    _, indices, count, scores, rank = on_cpu(out)
    assert_agrees(x, scores, rank, options={"solver": "eigh"})
    for kept, n, own in zip(indices, count.tolist(), scores, strict=True):
        assert 0 < n < 1000
        assert own[kept[:n]].sum() >= coverage * own.sum()
        assert (kept[n:] == -1).all()


@on_backends(("dtype", "center"), product([torch.float32, torch.bfloat16], [False, True]))
def test_packed_images(backend, dtype, center):
    lengths, keeps = [1100, 0, 7, 1, 1030], [9, 0, 3, 1, 40]  # shorter ones than features, too
    x = gaussian(sum(lengths), 20, dtype=dtype)
    cu_seqlens, cu_keep = (torch.tensor([0, *n]).cumsum(0) for n in (lengths, keeps))
    out = svdprune.prune_varlen(*map(backend.put, (x, cu_seqlens, cu_keep)), center=center)
    assert_packed_agrees(x, cu_seqlens, cu_keep, out, center=center)


@on_backends("value", [float("nan"), float("inf")])
def test_an_image_that_is_not_finite_keeps_its_first_tokens(backend, value):
    x = gaussian(2, 1100, 20)
    x[1, 700, 3] = value
    _, indices, scores, rank = on_cpu(svdprune.prune(backend.put(x), 5))
    assert rank[1] == -1
    assert scores[1].isnan().all()
    assert indices[1].tolist() == [0, 1, 2, 3, 4]
    alone = on_cpu(svdprune.prune(backend.put(x[0]), 5))
    assert torch.equal(indices[0], alone[1])
    torch.testing.assert_close(scores[0], alone[2], atol=1e-5, rtol=0)
