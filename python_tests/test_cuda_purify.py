"""What solver "purify" does on CUDA: which images are left to it, and that it agrees with the oracle."""

import pytest
import torch
from agreement import assert_agrees
from backends import Backend, on_backends
from cuda_calls import assert_same_bits, needs_cuda
from samples import gaussian, photograph, power_law, with_spectrum

import svdprune_ext as svdprune

CUDA = Backend("cuda", "cuda")


def has_clusters(backend):
    return backend.name != "cuda" or torch.cuda.get_device_capability() >= (9, 0)


def solved(backend, x, **options):
    """Names of the solvers that ran for x, and the steps or products taken."""
    if not has_clusters(backend):
        pytest.skip("no clusters of blocks: the GPU is older than sm_90")
    found = svdprune.diagnose(backend.put(x), **options)
    return found.solver, found.steps.reshape(-1).tolist()


def assert_prune_agrees(backend, x, keep, **options):
    tokens, indices, scores, rank = (
        t.cpu() for t in svdprune.prune(backend.put(x), keep, **options)
    )
    promised = {k: v for k, v in options.items() if k != "solver"}
    assert_agrees(x, scores, rank, indices, options=promised)
    assert torch.equal(tokens, torch.take_along_dim(x, indices[..., None], dim=-2))


def flat(images, tokens, seed=0):
    return gaussian(images, tokens, tokens + 64, seed=seed)


@on_backends(
    ("images", "tokens"),
    [(1, 192), (1, 256), (6, 256), (1, 576), (1, 577), (4, 576), (1, 1024)],
    quick=lambda images, tokens: tokens == 192,
)
def test_auto_leaves_flat_spectra_to_it(backend, images, tokens):
    x = flat(images, tokens)
    solvers, products = solved(backend, x)
    assert solvers == ["purify"] * images
    assert all(20 < count < 70 for count in products)
    assert_prune_agrees(backend, x, 32)


@on_backends(
    ("name", "make", "options"),
    [
        ("steep", lambda: photograph(0)[None], {}),
        ("few tokens", lambda: gaussian(1, 60, 96), {}),
        ("many images", lambda: flat(1, 192).expand(70, -1, -1), {}),
        ("nearly all energy", lambda: flat(1, 192), {"variance": 0.999}),
        ("a small rank", lambda: flat(1, 192), {"rank": 20}),
        ("a rank of more tokens than features", lambda: gaussian(1, 192, 100), {"rank": 90}),
        ("asked for", lambda: flat(1, 192), {"solver": "tridiag"}),
    ],
    quick=lambda name, *_: name == "few tokens",
)
def test_tridiag_keeps_the_others(backend, name, make, options):
    solvers, _ = solved(backend, make(), **options)
    assert set(solvers) == {"tridiag"}


def test_packed_images_of_a_rank_are_left_to_tridiag(backend):
    # Purification would count directions that are nothing but rounding.
    x, cu_seqlens, cu_keep = gaussian(25, 48), torch.tensor([0, 20, 25]), torch.tensor([0, 5, 8])
    moved = map(backend.put, (x, cu_seqlens, cu_keep))
    ranks = svdprune.prune_varlen(*moved, rank=20, center=True, solver="purify").rank
    assert ranks.tolist() == [19, 4]


@needs_cuda
@pytest.mark.parametrize("rank", [100, 300, 576])
def test_auto_leaves_large_ranks_to_it(rank):
    x = flat(1, 576)
    assert svdprune.diagnose(x.cuda(), rank=rank).solver == ["purify"]
    assert_prune_agrees(CUDA, x, 32, rank=rank)


@needs_cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("exponent", [0.3, 0.7, 1.0])
@pytest.mark.parametrize("variance", [0.8, 0.95])
def test_power_laws(exponent, variance, dtype):
    x = with_spectrum(400, 500, power_law(400, exponent)).to(dtype)
    for solver in ("auto", "purify"):
        assert_prune_agrees(CUDA, x, 32, variance=variance, solver=solver)


@needs_cuda
def test_a_batch_of_both_kinds_gives_what_its_images_give():
    x = torch.stack([flat(1, 576)[0], photograph()[:, :640], flat(1, 576, seed=1)[0]]).cuda()
    together = svdprune.prune(x, 32)
    for b, image in enumerate(x):
        alone = svdprune.prune(image, 32)
        for of_batch, of_one in zip(together, alone, strict=True):
            if of_batch.is_floating_point() and of_batch.dim() == 2:  # scores, by other blocks
                torch.testing.assert_close(of_batch[b], of_one, atol=1e-5, rtol=0)
            else:
                assert torch.equal(of_batch[b], of_one)


@needs_cuda
def test_calls_on_two_streams_give_the_same_bits():
    x = flat(1, 576).cuda()
    expected = svdprune.prune(x, 32)
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in range(2)]
    results = []
    for turn in range(20):
        with torch.cuda.stream(streams[turn % 2]):
            results.append(svdprune.prune(x, 32))
    torch.cuda.synchronize()
    for result in results:
        assert_same_bits(result, expected)
