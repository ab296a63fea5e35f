"""Every operator of the CUDA backend against the float64 oracle: on a GPU, and emulated."""

import re
from itertools import product

import pytest
import torch
from agreement import assert_agrees
from backends import is_quick, on_backends
from cuda_calls import assert_same_bits, every_op, features, needs_cuda, operator_calls
from samples import gaussian, photograph, samples

import svdprune_ext as svdprune
from svdprune_ext.reference import oracle_coverage

SOLVERS = ["eigh", "tridiag"]
both_solvers = pytest.mark.parametrize("solver", SOLVERS)


def on_cpu(result):
    return tuple(t.cpu() for t in result)


def promised(options):
    """The CUDA backend has a float32 Gram matrix, and both its solvers promise what "eigh" does."""
    return {**options, "solver": "eigh", "float32_counts": True}


def assert_prune_agrees(backend, x, keep, options=None, **more):
    """Prunes x [B, N, D] or [N, D], which is on the CPU; all that ``prune`` promises."""
    options = options or {}
    on_device = backend.put(x)
    out = svdprune.prune(on_device, keep, **options, **more)
    assert all(t.device.type == backend.device for t in out)
    tokens, indices, scores, rank = on_cpu(out)
    assert torch.equal(on_device.cpu(), x)
    assert indices.shape == (*x.shape[:-2], keep)
    assert (indices.diff(dim=-1) > 0).all()
    assert tokens.dtype == x.dtype
    assert torch.equal(tokens, torch.take_along_dim(x, indices[..., None], dim=-2))
    assert scores.dtype == (torch.float64 if x.dtype == torch.float64 else torch.float32)
    assert rank.dtype == torch.int32
    assert_agrees(x, scores, rank, indices, options=promised(options))
    return out


@on_backends(("sample", "solver"), product(samples(), ["auto", *SOLVERS, "purify"]), is_quick)
def test_prune(backend, sample, solver):
    x = sample.make()
    out = assert_prune_agrees(backend, x, sample.keep, sample.options, solver=solver)
    alone = svdprune.leverage_scores(backend.put(x), solver=solver, **sample.options)
    assert_same_bits(alone, (out.scores, out.rank))


@on_backends(("sample", "solver", "coverage"), product(samples(), SOLVERS, [0.3, 0.9]), is_quick)
def test_prune_adaptive(backend, sample, solver, coverage):
    x = sample.make()
    out = svdprune.prune_adaptive(
        backend.put(x), sample.keep, coverage=coverage, solver=solver, **sample.options
    )
    tokens, indices, count, scores, rank = on_cpu(out)
    assert_agrees(x, scores, rank, options=promised(sample.options))
    images = x if x.dim() == 3 else x[None]
    for image, kept, index, n, score in zip(
        images,
        tokens.reshape(len(images), sample.keep, x.shape[-1]),
        indices.reshape(len(images), sample.keep),
        count.reshape(-1).tolist(),
        scores.reshape(len(images), -1),
        strict=True,
    ):
        expected = oracle_coverage(score.double(), sample.keep, coverage)
        assert index[:n].tolist() == expected.tolist()
        assert (index[n:] == -1).all()
        assert torch.equal(kept[:n], image[index[:n]])
        assert not kept[n:].any()


def assert_packed_agrees(x, cu_seqlens, cu_keep, out, *, center, rank=None):
    """What ``prune_varlen`` gave for packed images x [T, D], which are on the CPU as the offsets are."""
    tokens, indices, scores, ranks = on_cpu(out)
    assert torch.equal(tokens, x[indices])
    for b, (length, keep) in enumerate(
        zip(cu_seqlens.diff().tolist(), cu_keep.diff().tolist(), strict=True)
    ):
        first, kept = int(cu_seqlens[b]), int(cu_keep[b])
        if length == 0:
            assert ranks[b] == 0
            continue
        # Directions without energy, as centring leaves one, are not counted; none at all is rank 0.
        own_rank = (min(rank, length - center) or None) if rank else None
        assert_agrees(
            x[first : first + length],
            scores[first : first + length],
            ranks[b],
            indices[kept : kept + keep] - first,
            options={"rank": own_rank, "center": center, "solver": "eigh"},
        )


@on_backends(
    ("dtype", "center", "rank", "solver"),
    product([torch.float64, torch.float32, torch.bfloat16], [False, True], [None, 6], SOLVERS),
    quick=lambda dtype, center, rank, solver: (
        solver == "eigh" or (dtype == torch.bfloat16 and rank is None)
    ),
)
def test_prune_varlen(backend, dtype, center, rank, solver):
    lengths, keeps = [17, 0, 1, 40, 5], [4, 0, 1, 9, 0]
    x = gaussian(sum(lengths), 24, dtype=dtype)
    cu_seqlens, cu_keep = (torch.tensor([0, *n]).cumsum(0) for n in (lengths, keeps))
    moved = (backend.put(t) for t in (x, cu_seqlens.int(), cu_keep))
    out = svdprune.prune_varlen(*moved, rank=rank, center=center, solver=solver)
    assert_packed_agrees(x, cu_seqlens, cu_keep, out, center=center, rank=rank)


@pytest.mark.parametrize(
    ("x", "keep"),
    [
        (gaussian(1, 16), 1),
        (gaussian(3, 1, 16), 1),
        (gaussian(18, 26), 18),
        (gaussian(2, 26, 18), 26),
        (gaussian(18, 26), 0),
    ],
    ids=["one token", "one token, batch", "keep all", "keep all, more tokens", "keep none"],
)
def test_smallest_and_largest_budgets(backend, x, keep):
    out = assert_prune_agrees(backend, x, keep)
    if keep == x.shape[-2]:
        assert torch.equal(out.tokens.cpu(), x)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(0, 6, 4), (2, 0, 4), (0, 4), (0, 0, 4), (3, 0)], ids=str)
def test_empty_input(backend, shape, dtype):
    x = torch.zeros(shape, dtype=dtype, device=backend.device)
    tokens, indices, scores, rank = svdprune.prune(x, 0)
    assert tokens.shape == (*shape[:-2], 0, shape[-1])
    assert indices.shape == (*shape[:-2], 0)
    assert scores.shape == shape[:-1]
    assert rank.shape == shape[:-2]
    assert not rank.any()
    assert not scores.any()
    assert svdprune.prune_adaptive(x, 0, coverage=0.5).count.shape == shape[:-2]


def test_no_features_keeps_the_first_tokens(backend):
    x = torch.zeros(5, 0, device=backend.device)
    assert svdprune.prune(x, 3).indices.tolist() == [0, 1, 2]


@on_backends("dtype", [torch.float32, torch.bfloat16], quick=lambda _: False)
def test_the_most_tokens(backend, dtype):
    assert_prune_agrees(backend, gaussian(16384, 48, dtype=dtype), 512)


@on_backends("images", [1, 12], quick=lambda _: False)
@both_solvers
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_a_batch_of_photographs(backend, images, dtype, solver):
    # 12 images take the smaller clusters of "tridiag".
    x = torch.stack([photograph(seed % 3) for seed in range(images)]).to(dtype)
    assert_prune_agrees(backend, x, 32, solver=solver)


@pytest.mark.parametrize("layout", ["rows", "features", "transposed", "batch", "expanded"])
def test_strides(backend, layout):
    x = {
        "rows": lambda: gaussian(2, 40, 56)[:, ::2],
        "features": lambda: gaussian(2, 40, 57)[..., 1::2],
        "transposed": lambda: gaussian(2, 56, 40).mT,
        "batch": lambda: gaussian(40, 2, 56).transpose(0, 1),
        "expanded": lambda: gaussian(1, 40, 56).expand(3, -1, -1),
    }[layout]()
    moved = torch.empty_strided(x.shape, x.stride(), device=backend.device)
    moved.copy_(x) if layout != "expanded" else moved[:1].copy_(x[:1])
    assert moved.stride() == x.stride()
    got = svdprune.prune(moved, 9)
    assert_same_bits(got, svdprune.prune(backend.put(x.contiguous()), 9))


@needs_cuda
@every_op
def test_a_call_gives_the_same_bits_again(name):
    call, x = operator_calls()[name], features()
    assert_same_bits(call(x), call(x))


# NaN and Inf: no exception, since nothing is read back; the image itself says so.


@on_backends(
    ("shape", "solver", "dtype", "bad"),
    product(
        [(3, 20, 28), (3, 28, 20)],
        SOLVERS,
        [torch.float64, torch.float32, torch.float16, torch.bfloat16],
        [float("nan"), float("inf"), float("-inf")],
    ),
    quick=lambda shape, solver, dtype, bad: solver == "eigh" and bad != float("-inf"),
)
@pytest.mark.parametrize("center", [False, True])
def test_not_finite_marks_its_image_only(backend, shape, solver, dtype, bad, center):
    x = gaussian(*shape, dtype=dtype)
    good = svdprune.prune(backend.put(x), 6, center=center, solver=solver)
    x[1, 2, 3] = bad
    moved = backend.put(x)
    tokens, indices, scores, rank = svdprune.prune(moved, 6, center=center, solver=solver)
    assert scores[1].isnan().all()
    assert rank[1] == -1
    assert indices[1].tolist() == [0, 1, 2, 3, 4, 5]
    assert torch.equal(tokens[1].cpu().nan_to_num(), x[1, :6].nan_to_num())
    for b in (0, 2):
        assert_same_bits(
            (tokens[b], indices[b], scores[b], rank[b]),
            (good.tokens[b], good.indices[b], good.scores[b], good.rank[b]),
        )

    adaptive = svdprune.prune_adaptive(moved, 6, coverage=0.3, center=center, solver=solver)
    assert adaptive.rank.tolist() == rank.tolist()
    assert adaptive.scores[1].isnan().all()


@both_solvers
def test_not_finite_in_a_packed_image(backend, solver):
    x = gaussian(9, 5)
    x[5, 1] = float("nan")
    offsets, keeps = (torch.tensor(n, device=backend.device) for n in ([0, 4, 9], [0, 2, 5]))
    out = svdprune.prune_varlen(backend.put(x), offsets, keeps, solver=solver)
    assert out.rank[1] == -1
    assert out.scores[4:].isnan().all()
    assert out.indices[2:].tolist() == [4, 5, 6]
    assert_agrees(
        x[:4],
        out.scores[:4].cpu(),
        out.rank[0].cpu(),
        out.indices[:2].cpu(),
        options={"solver": "eigh"},
    )


# Refusals that are CUDA's own.


@needs_cuda
def test_offsets_on_another_device():
    x, keeps = gaussian(9, 5).cuda(), torch.tensor([0, 2, 5], device="cuda")
    with pytest.raises(ValueError, match="cu_seqlens must be on the device of x"):
        svdprune.prune_varlen(x, torch.tensor([0, 4, 9]), keeps, total_keep=5, max_seqlen=5)


@pytest.mark.parametrize(
    ("message", "call"),
    [
        ("keep must be in [0, N] = [0, 12], got 13", lambda x: svdprune.prune(x, 13)),
        (
            "rank must be in [1, min(N, D)] = [1, 9], got 10",
            lambda x: svdprune.prune(x, 3, rank=10),
        ),
        ("variance must be in (0, 1], got 0", lambda x: svdprune.leverage_scores(x, variance=0)),
        ("x must be float64, float32, float16 or bfloat16", lambda x: svdprune.prune(x.long(), 4)),
        (
            'solver must be "auto", "tridiag", "eigh" or "purify", got "svd"',
            lambda x: svdprune.diagnose(x, solver="svd"),
        ),
        (
            'rank must be left out for select "pivoted"',
            lambda x: svdprune.prune(x, 3, rank=2, select="pivoted"),
        ),
        (
            "coverage must be in (0, 1], got 2",
            lambda x: svdprune.prune_adaptive(x, 3, coverage=2),
        ),
        (
            "x must hold at most 65535 images, got 65536",
            lambda x: svdprune.prune(x[:1, :1, :1].expand(65536, 1, 1), 1),
        ),
    ],
)
def test_arguments_are_checked(backend, message, call):
    with pytest.raises(ValueError, match="svdprune::.*" + re.escape(message)):
        call(backend.put(gaussian(2, 12, 9)))
