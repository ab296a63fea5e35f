"""The operators inside PyTorch on a GPU: opcheck, autograd, autocast, compile."""

import pytest
import torch
from cuda_calls import FEW, assert_same_bits, features, needs_cuda, operator_calls
from samples import gaussian, samples
from torch.library import opcheck
from torch.utils._triton import has_triton

import svdprune_ext as svdprune

pytestmark = needs_cuda
ops = torch.ops.svdprune
few_samples = pytest.mark.parametrize("sample", [s for s in samples() if s.name in FEW], ids=str)


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
