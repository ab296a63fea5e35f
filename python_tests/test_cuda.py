"""Every operator on CUDA against the float64 oracle, and inside PyTorch: opcheck, autograd, compile."""

import re

import pytest
import torch
from agreement import assert_agrees
from cuda_calls import assert_same_bits, every_op, features, needs_cuda, operator_calls
from samples import gaussian, photograph, samples
from torch.library import opcheck
from torch.utils._triton import has_triton

import svdprune_ext as svdprune
from svdprune_ext.reference import oracle_coverage

pytestmark = needs_cuda
ops = torch.ops.svdprune
every_sample = pytest.mark.parametrize("sample", samples(), ids=str)
FEW = {"gaussian", "batch", "more_tokens", "zeros", "explicit_rank", "float64", "bfloat16"}
both_solvers = pytest.mark.parametrize("solver", ["eigh", "tridiag"])
few_samples = pytest.mark.parametrize("sample", [s for s in samples() if s.name in FEW], ids=str)


def on_cpu(result):
    return tuple(t.cpu() for t in result)


def promised(options):
    """The CUDA backend has a float32 Gram matrix, and both its solvers promise what "eigh" does."""
    return {**options, "solver": "eigh", "float32_counts": True}


def assert_prune_agrees(x, keep, options=None, **more):
    """Prunes x [B, N, D] or [N, D], which is on the CPU, on CUDA; all that ``prune`` promises."""
    options = options or {}
    on_device = x.cuda()
    out = svdprune.prune(on_device, keep, **options, **more)
    assert all(t.is_cuda for t in out)
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


@pytest.mark.parametrize("solver", ["auto", "eigh", "tridiag"])
@every_sample
def test_prune(sample, solver):
    x = sample.make()
    out = assert_prune_agrees(x, sample.keep, sample.options, solver=solver)
    alone = svdprune.leverage_scores(x.cuda(), solver=solver, **sample.options)
    assert_same_bits(alone, (out.scores, out.rank))


@both_solvers
@pytest.mark.parametrize("coverage", [0.3, 0.9])
@every_sample
def test_prune_adaptive(sample, coverage, solver):
    x = sample.make()
    out = svdprune.prune_adaptive(
        x.cuda(), sample.keep, coverage=coverage, solver=solver, **sample.options
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


@both_solvers
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("rank", [None, 6])
def test_prune_varlen(rank, center, dtype, solver):
    lengths, keeps = [17, 0, 1, 40, 5], [4, 0, 1, 9, 0]
    x = gaussian(sum(lengths), 24, dtype=dtype)
    cu_seqlens, cu_keep = (torch.tensor([0, *n]).cumsum(0) for n in (lengths, keeps))
    out = svdprune.prune_varlen(
        x.cuda(), cu_seqlens.int().cuda(), cu_keep.cuda(), rank=rank, center=center, solver=solver
    )
    tokens, indices, scores, ranks = on_cpu(out)
    assert torch.equal(tokens, x[indices])
    for b, (length, keep) in enumerate(zip(lengths, keeps, strict=True)):
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
def test_smallest_and_largest_budgets(x, keep):
    out = assert_prune_agrees(x, keep)
    if keep == x.shape[-2]:
        assert torch.equal(out.tokens.cpu(), x)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(0, 6, 4), (2, 0, 4), (0, 4), (0, 0, 4), (3, 0)], ids=str)
def test_empty_input(shape, dtype):
    x = torch.zeros(shape, dtype=dtype, device="cuda")
    tokens, indices, scores, rank = svdprune.prune(x, 0)
    assert tokens.shape == (*shape[:-2], 0, shape[-1])
    assert indices.shape == (*shape[:-2], 0)
    assert scores.shape == shape[:-1]
    assert rank.shape == shape[:-2]
    assert not rank.any()
    assert not scores.any()
    assert svdprune.prune_adaptive(x, 0, coverage=0.5).count.shape == shape[:-2]


def test_no_features_keeps_the_first_tokens():
    assert svdprune.prune(torch.zeros(5, 0, device="cuda"), 3).indices.tolist() == [0, 1, 2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_most_tokens(dtype):
    assert_prune_agrees(gaussian(16384, 48, dtype=dtype), 512)


@both_solvers
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("images", [1, 12])
def test_a_batch_of_photographs(images, dtype, solver):
    # 12 images take the smaller clusters of "tridiag".
    x = torch.stack([photograph(seed % 3) for seed in range(images)]).to(dtype)
    assert_prune_agrees(x, 32, solver=solver)


@pytest.mark.parametrize("layout", ["rows", "features", "transposed", "batch", "expanded"])
def test_strides(layout):
    x = {
        "rows": lambda: gaussian(2, 40, 56)[:, ::2],
        "features": lambda: gaussian(2, 40, 57)[..., 1::2],
        "transposed": lambda: gaussian(2, 56, 40).mT,
        "batch": lambda: gaussian(40, 2, 56).transpose(0, 1),
        "expanded": lambda: gaussian(1, 40, 56).expand(3, -1, -1),
    }[layout]()
    moved = torch.empty_strided(x.shape, x.stride(), device="cuda")
    moved.copy_(x) if layout != "expanded" else moved[:1].copy_(x[:1])
    assert moved.stride() == x.stride()
    got = svdprune.prune(moved, 9)
    assert_same_bits(got, svdprune.prune(x.contiguous().cuda(), 9))


@every_op
def test_a_call_gives_the_same_bits_again(name):
    call, x = operator_calls()[name], features()
    assert_same_bits(call(x), call(x))


# NaN and Inf: no exception, since nothing is read back; the image itself says so.


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("shape", [(3, 20, 28), (3, 28, 20)], ids=str)
@both_solvers
def test_not_finite_marks_its_image_only(solver, shape, center, dtype, bad):
    x = gaussian(*shape, dtype=dtype)
    good = svdprune.prune(x.cuda(), 6, center=center, solver=solver)
    x[1, 2, 3] = bad
    tokens, indices, scores, rank = svdprune.prune(x.cuda(), 6, center=center, solver=solver)
    assert scores[1].isnan().all()
    assert rank[1] == -1
    assert indices[1].tolist() == [0, 1, 2, 3, 4, 5]
    assert torch.equal(tokens[1].cpu().nan_to_num(), x[1, :6].nan_to_num())
    for b in (0, 2):
        assert_same_bits(
            (tokens[b], indices[b], scores[b], rank[b]),
            (good.tokens[b], good.indices[b], good.scores[b], good.rank[b]),
        )

    adaptive = svdprune.prune_adaptive(x.cuda(), 6, coverage=0.3, center=center, solver=solver)
    assert adaptive.rank.tolist() == rank.tolist()
    assert adaptive.scores[1].isnan().all()


def test_not_finite_in_a_packed_image():
    x = gaussian(9, 5)
    x[5, 1] = float("nan")
    offsets, keeps = (torch.tensor(n, device="cuda") for n in ([0, 4, 9], [0, 2, 5]))
    out = svdprune.prune_varlen(x.cuda(), offsets, keeps)
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


def test_offsets_on_another_device():
    x, keeps = gaussian(9, 5).cuda(), torch.tensor([0, 2, 5], device="cuda")
    with pytest.raises(ValueError, match="cu_seqlens must be on the device of x"):
        svdprune.prune_varlen(x, torch.tensor([0, 4, 9]), keeps, total_keep=5, max_seqlen=5)


def test_arguments_are_checked_as_on_the_cpu():
    x = features()
    with pytest.raises(ValueError, match=re.escape("keep must be in [0, N] = [0, 40], got 41")):
        svdprune.prune(x, 41)
    with pytest.raises(ValueError, match="x must be float64, float32, float16 or bfloat16"):
        svdprune.prune(x.long(), 4)


# Inside PyTorch.


@pytest.mark.parametrize("grad", [False, True], ids=["plain", "requires_grad"])
@few_samples
@pytest.mark.parametrize("name", ["leverage_scores", "prune", "prune_adaptive", "prune_varlen"])
def test_opcheck(name, sample, grad):
    x = sample.make().cuda().requires_grad_(grad)
    flat = x if x.dim() == 2 else x[0].detach().requires_grad_(grad)
    offsets = [torch.tensor([0, 0, n], device="cuda") for n in (len(flat), sample.keep)]
    told = {"total_keep": sample.keep, "max_seqlen": len(flat)}
    op, args, kwargs = {
        "leverage_scores": (ops.leverage_scores, (x,), {}),
        "prune": (ops.prune, (x, sample.keep), {}),
        "prune_adaptive": (ops.prune_adaptive, (x, sample.keep), {"coverage": 0.4}),
        "prune_varlen": (ops.prune_varlen, (flat, *offsets), told),
    }[name]
    opcheck(op.default, args, {**kwargs, **sample.options})


@few_samples
def test_gradient_is_the_scatter_of_the_kept_rows(sample):
    x = sample.make().cuda().requires_grad_()
    out = svdprune.prune(x, sample.keep, **sample.options)
    assert not any(t.requires_grad for t in out[1:])
    weight = gaussian(*out.tokens.shape, seed=5, dtype=x.dtype).cuda()
    (grad,) = torch.autograd.grad((out.tokens * weight).sum(), x)
    index = out.indices[..., None].expand_as(weight)
    assert torch.equal(grad, torch.zeros_like(x).scatter(-2, index, weight))


def test_autocast_changes_no_bit():
    x = features()
    for call in operator_calls().values():
        expected = call(x)
        with torch.autocast("cuda", dtype=torch.bfloat16):
            assert_same_bits(call(x), expected)


def encode(x, keep=6):
    out = svdprune.prune(x * 2, keep)
    adaptive = svdprune.prune_adaptive(x, keep, coverage=0.3)
    return out.tokens.sin() + adaptive.tokens, out.indices, adaptive.count, out.scores


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compile_without_graph_breaks_on_dynamic_shapes(backend):
    if backend == "inductor" and not has_triton():
        pytest.skip("inductor needs Triton on a GPU, and Triton is not installed")
    torch._dynamo.reset()
    compiled = torch.compile(encode, backend=backend, fullgraph=True, dynamic=True)
    for shape in [(2, 14, 18), (3, 20, 18), (2, 30, 10)]:
        x = gaussian(*shape).cuda()
        for a, b in zip(compiled(x), encode(x), strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
