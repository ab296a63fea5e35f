"""The operators inside PyTorch: schemas, fakes, autograd, autocast, compile, export."""

import io

import pytest
import torch
from samples import gaussian, sample, samples
from torch.autograd import forward_ad
from torch.library import opcheck

import svdprune_ext as svdprune

ops = torch.ops.svdprune
SMALL = [s for s in samples() if not s.name.startswith("photograph")]
FEW = [
    s
    for s in SMALL
    if s.name
    in {"gaussian", "batch", "more_tokens", "zeros", "explicit_rank", "float64", "bfloat16"}
]
few_samples = pytest.mark.parametrize("sample", FEW, ids=str)
requires_grad = pytest.mark.parametrize("grad", [False, True], ids=["plain", "requires_grad"])


def offsets_for(x, keep):
    return torch.tensor([0, 0, len(x)]), torch.tensor([0, 0, keep], dtype=torch.int32)


def calls(sample, x):
    """(op, args, kwargs) of every operator on one sample."""
    flat = x if x.dim() == 2 else x[0].detach().requires_grad_(x.requires_grad)
    told = {"total_keep": sample.keep, "max_seqlen": len(flat)}
    offsets = offsets_for(flat, sample.keep)
    pivoted = {"center": sample.center, "select": "pivoted"}
    return {
        "leverage_scores": (ops.leverage_scores, (x,), sample.options),
        "prune": (ops.prune, (x, sample.keep), sample.options),
        "prune_adaptive": (
            ops.prune_adaptive,
            (x, sample.keep),
            {"coverage": 0.4, **sample.options},
        ),
        "prune_varlen": (ops.prune_varlen, (flat, *offsets), {**told, **sample.options}),
        "prune pivoted": (ops.prune, (x, sample.keep), pivoted),
        "prune_adaptive pivoted": (
            ops.prune_adaptive,
            (x, sample.keep),
            {"coverage": 0.4, **pivoted},
        ),
        "prune_varlen pivoted": (ops.prune_varlen, (flat, *offsets), {**told, **pivoted}),
    }


OPS = ["leverage_scores", "prune", "prune_adaptive", "prune_varlen"]
OPS += [f"{name} pivoted" for name in OPS[1:]]
every_op = pytest.mark.parametrize("name", OPS)


def test_the_gradient_of_a_padded_place_goes_nowhere():
    x = sample("gaussian").make().requires_grad_()
    tokens, indices, count, *_ = ops.prune_adaptive(x, 8, coverage=0.1)
    assert count < 8
    unit = tokens / tokens.norm(dim=-1, keepdim=True)  # whose gradient at zero is NaN
    torch.where((indices >= 0).unsqueeze(-1), unit, 0).sum().backward()
    assert torch.isfinite(x.grad).all()
    assert x.grad[indices[:count]].any()


@requires_grad
@few_samples
@every_op
def test_opcheck(name, sample, grad):
    op, args, kwargs = calls(sample, sample.make().requires_grad_(grad))[name]
    opcheck(op.default, args, kwargs)


@requires_grad
@few_samples
def test_opcheck_of_diagnose(sample, grad):
    opcheck(ops.diagnose.default, (sample.make().requires_grad_(grad),), sample.options)


@pytest.mark.parametrize("sample", SMALL, ids=str)
@every_op
def test_fake_and_meta_agree_with_the_kernel(name, sample):
    x = sample.make()
    op, args, kwargs = calls(sample, x)[name]
    expected = op(*args, **kwargs)
    meta = op(*(a.to("meta") if isinstance(a, torch.Tensor) else a for a in args), **kwargs)
    for real, fake in zip(expected, meta, strict=True):
        assert (real.shape, real.dtype, real.stride()) == (fake.shape, fake.dtype, fake.stride())


@every_op
def test_inference_mode(name):
    x = gaussian(2, 20, 24)
    with torch.inference_mode():
        op, args, kwargs = calls(FEW[0], x)[name]
        out = op(*args, **kwargs)
    assert all(o.is_inference() for o in out)
    for a, b in zip(out, op(*args, **kwargs), strict=True):
        assert torch.equal(a, b)


@every_op
def test_autocast_changes_no_bit(name):
    op, args, kwargs = calls(FEW[0], gaussian(48, 64))[name]
    expected = op(*args, **kwargs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = op(*args, **kwargs)
    for a, b in zip(expected, cast, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


# Autograd: the selection is piecewise constant, so a gradient reaches the kept rows and no other.


@few_samples
@every_op
def test_gradient_is_the_scatter_of_the_kept_rows(name, sample):
    x = sample.make().requires_grad_()
    op, args, kwargs = calls(sample, x)[name]
    tokens, indices, *rest = op(*args, **kwargs)
    if name == "leverage_scores":
        assert not tokens.requires_grad
        assert not indices.requires_grad
        return
    assert tokens.requires_grad
    assert not indices.requires_grad
    assert not any(r.requires_grad for r in rest)
    weight = gaussian(*tokens.shape, seed=5, dtype=tokens.dtype)
    (grad,) = torch.autograd.grad((tokens * weight).sum(), args[0])

    expected = torch.zeros_like(args[0])
    for g, w, kept in zip(
        expected.reshape(-1, *expected.shape[-2:]),
        weight.reshape(-1, *weight.shape[-2:]),
        indices.reshape(-1, indices.shape[-1]),
        strict=True,
    ):
        for k, i in enumerate(kept.tolist()):
            if i >= 0:
                g[i] = w[k]
    assert torch.equal(grad, expected)


@pytest.mark.parametrize("name", OPS[1:])  # the scores have no gradient
def test_gradcheck(name):
    # Rows of clearly different norms in directions of their own: no step of gradcheck reorders them.
    x = torch.diag(torch.tensor([5.0, 1, 4, 0.5, 3])).double()
    x = torch.cat([x, x.new_zeros(5, 2)], dim=1) + 0.01 * gaussian(5, 7, dtype=torch.float64)
    x.requires_grad_()
    offsets, keeps = torch.tensor([0, 5]), torch.tensor([0, 3])
    pivoted = {"select": "pivoted"}
    tokens = {
        "prune": lambda x: svdprune.prune(x, 3, rank=3).tokens,
        "prune_adaptive": lambda x: svdprune.prune_adaptive(x, 4, coverage=0.6, rank=3).tokens,
        "prune_varlen": lambda x: svdprune.prune_varlen(x, offsets, keeps, rank=3).tokens,
        "prune pivoted": lambda x: svdprune.prune(x, 3, **pivoted).tokens,
        "prune_adaptive pivoted": lambda x: (
            svdprune.prune_adaptive(x, 4, coverage=0.6, **pivoted).tokens
        ),
        "prune_varlen pivoted": lambda x: (
            svdprune.prune_varlen(x, offsets, keeps, **pivoted).tokens
        ),
    }[name]
    assert torch.autograd.gradcheck(tokens, x)
    assert torch.autograd.gradgradcheck(tokens, x)


def test_double_backward():
    x = gaussian(12, 16).requires_grad_()
    out = svdprune.prune(x, 4)
    (grad,) = torch.autograd.grad(out.tokens.square().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(grad.sum(), x)
    expected = torch.zeros_like(x)
    expected[out.indices] = 2
    assert torch.equal(second, expected)


def squared_tokens(x):
    return svdprune.prune(x, 4).tokens.square().sum()


def test_transforms_of_torch_func():
    x = gaussian(3, 12, 16)
    of_images = torch.vmap(torch.func.grad(squared_tokens))(x)
    for image, grad in zip(x, of_images, strict=True):
        kept = torch.zeros(12, 1)
        kept[svdprune.prune(image, 4).indices] = 1
        assert torch.equal(grad, 2 * kept * image)
        assert torch.equal(torch.func.jacrev(squared_tokens)(image), grad)
        assert torch.equal(
            torch.func.hessian(squared_tokens)(image).flatten(2).sum(2), (2 * kept).expand(12, 16)
        )
        tangent = torch.ones_like(image)
        _, of_tangent = torch.func.jvp(squared_tokens, (image,), (tangent,))
        torch.testing.assert_close(of_tangent, grad.sum())


@pytest.mark.filterwarnings("error")  # torch's, where it has to go image by image
@pytest.mark.parametrize("shape", [(3, 12, 16), (3, 2, 12, 16)])
@pytest.mark.parametrize("dim", [0, 1, -1])
def test_images_under_vmap_are_one_batch(shape, dim):
    x = gaussian(*shape)
    calls = {
        "leverage_scores": lambda x: ops.leverage_scores(x, variance=0.8),
        "diagnose": lambda x: ops.diagnose(x, variance=0.8),
        "prune": lambda x: ops.prune(x, 4, select="pivoted"),
        "prune_adaptive": lambda x: ops.prune_adaptive(x, 4, coverage=0.3),
    }
    for call in calls.values():
        found = torch.vmap(call, in_dims=dim)(x.movedim(0, dim))
        expected = [call(image) for image in x]
        for of_all, of_each in zip(found, zip(*expected, strict=True), strict=True):
            assert torch.equal(of_all, torch.stack(of_each))


def test_features_without_tokens_are_refused_under_vmap():
    with pytest.raises(ValueError, match=r"prune: x must be .*, got shape \[16\] under vmap"):
        torch.vmap(lambda x: ops.prune(x, 4))(gaussian(12, 16))
    with pytest.raises(ValueError, match=r"prune: x must be .*, got shape \[2, 2, 12, 16\] under"):
        torch.vmap(lambda x: ops.prune(x, 4))(gaussian(3, 2, 2, 12, 16))


def test_forward_derivatives():
    x, tangent = gaussian(12, 16), gaussian(12, 16, seed=1)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, tangent)
        out = svdprune.prune_adaptive(dual, 6, coverage=0.3)
        of_tokens = forward_ad.unpack_dual(out.tokens).tangent
        assert forward_ad.unpack_dual(out.scores).tangent is None
    count = int(out.count)
    assert 0 < count < 6
    assert torch.equal(of_tokens[:count], tangent[out.indices[:count]])
    assert not of_tokens[count:].any()


def test_gradient_through_a_view_and_a_batch():
    base = gaussian(16, 3, 12).requires_grad_()
    out = svdprune.prune(base.permute(1, 0, 2), 5)
    out.tokens.sum().backward()
    assert base.grad.sum() == 3 * 5 * 12
    assert set(base.grad.unique().tolist()) == {0.0, 1.0}


# Graphs.


def encode(x, keep=6):
    out = svdprune.prune(x * 2, keep)
    adaptive = svdprune.prune_adaptive(x, keep, coverage=0.3)
    scores = svdprune.leverage_scores(x).scores
    return out.tokens.sin() + adaptive.tokens, out.indices, adaptive.count, scores


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compile_without_graph_breaks_on_dynamic_shapes(backend):
    torch._dynamo.reset()
    compiled = torch.compile(encode, backend=backend, fullgraph=True, dynamic=True)
    for shape in [(2, 14, 18), (3, 20, 18), (2, 30, 10)]:
        x = gaussian(*shape)
        for a, b in zip(compiled(x), encode(x), strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_compile_backward():
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda x: svdprune.prune(x, 6).tokens.sin(), backend="aot_eager", fullgraph=True
    )
    grads = []
    for call in (compiled, lambda x: svdprune.prune(x, 6).tokens.sin()):
        x = gaussian(2, 14, 18).requires_grad_()
        call(x).sum().backward()
        grads.append(x.grad)
    torch.testing.assert_close(*grads)


def test_compile_varlen():
    torch._dynamo.reset()

    def pack(x, offsets, keeps):
        out = svdprune.prune_varlen(x, offsets, keeps, total_keep=5, max_seqlen=20)
        return out.tokens + 1, out.indices

    args = (gaussian(30, 8), torch.tensor([0, 12, 30]), torch.tensor([0, 3, 5]))
    compiled = torch.compile(pack, backend="aot_eager", fullgraph=True)
    for a, b in zip(compiled(*args), pack(*args), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("strict", [False, True], ids=["non_strict", "strict"])
def test_export_with_a_dynamic_batch_and_reload(strict):
    module = svdprune.SVDPrune(keep=6)
    program = torch.export.export(
        module,
        (gaussian(2, 14, 18),),
        dynamic_shapes={"x": {0: torch.export.Dim("batch", min=1, max=64)}},
        strict=strict,
    )
    assert "svdprune.prune" in program.graph_module.code
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    for batch in (1, 2, 5):
        x = gaussian(batch, 14, 18, seed=batch)
        assert torch.equal(loaded(x), module(x))


class Results(torch.nn.Module):
    """A module that returns what the operators return."""

    def forward(self, x):
        return (
            svdprune.leverage_scores(x),
            svdprune.prune(x, 4),
            svdprune.prune_adaptive(x, 4, coverage=0.5),
        )


class Rated(torch.nn.Module):
    def forward(self, q, k, raters, visual):
        return svdprune.rater_scores(q, k, raters, visual)


class Chosen(torch.nn.Module):
    def forward(self, x):
        return svdprune.methods.get("norm").select(x, 4)


POSITIONS = torch.tensor([[0, 3]])
RETURNING = {
    "operators": (Results(), (gaussian(2, 14, 18),)),
    "rater_scores": (Rated(), (*gaussian(2, 1, 2, 6, 8), POSITIONS, POSITIONS)),
    "method": (Chosen(), (gaussian(2, 14, 18),)),
}


@torch.no_grad()
@pytest.mark.parametrize("name", RETURNING)
def test_results_are_of_their_types_again_in_a_loaded_program(name):
    module, args = RETURNING[name]
    file = io.BytesIO()
    torch.export.save(torch.export.export(module, args), file)
    file.seek(0)
    loaded, expected = torch.export.load(file).module()(*args), module(*args)
    for a, b in zip(*((r if type(r) is tuple else (r,)) for r in (loaded, expected)), strict=True):
        assert type(a) is type(b)
        for tensor, right in zip(a, b, strict=True):
            assert tensor is right is None or torch.equal(tensor, right)


def test_symbolic_trace():
    x, module = gaussian(2, 14, 18), Results()
    for a, b in zip(torch.fx.symbolic_trace(module)(x), module(x), strict=True):
        assert type(a) is type(b)
        for tensor, right in zip(a, b, strict=True):
            assert torch.equal(tensor, right)
    module, args = RETURNING["rater_scores"]
    assert torch.equal(torch.fx.symbolic_trace(module)(*args).scores, module(*args).scores)
