"""SVDPrune, the operator as a module."""

import copy
import pickle
import re
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from samples import gaussian, sample
from torch import nn

import svdprune_ext as svdprune

README = Path(__file__).resolve().parent.parent / "README.md"


@pytest.mark.parametrize(
    "name", ["batch", "gaussian", "explicit_rank", "mean_direction_centered", "bfloat16"]
)
def test_equals_the_operator(name):
    s = sample(name)
    x = s.make()
    module = svdprune.SVDPrune(s.keep, **s.options)
    assert torch.equal(module(x), svdprune.prune(x, s.keep, **s.options).tokens)


def test_repr_shows_the_options():
    assert repr(svdprune.SVDPrune(keep=32)) == (
        "SVDPrune(keep=32, variance=0.9, rank=None, center=False, solver='auto', select='topk')"
    )
    assert repr(svdprune.SVDPrune(8, 0.5, 3, True, "eigh")) == (
        "SVDPrune(keep=8, variance=0.5, rank=3, center=True, solver='eigh', select='topk')"
    )


def test_pivoted_equals_the_operator():
    x = gaussian(2, 10, 12)
    module = svdprune.SVDPrune(4, center=True, select="pivoted")
    expected = svdprune.prune(x, 4, center=True, select="pivoted").tokens
    assert torch.equal(module(x), expected)
    assert not torch.equal(module(x), svdprune.SVDPrune(4, center=True)(x))


def test_has_no_state():
    module = svdprune.SVDPrune(keep=4)
    assert module.state_dict() == {}
    assert list(module.parameters()) == []
    module.load_state_dict({})


def test_conversion_and_mode_change_nothing():
    module = svdprune.SVDPrune(keep=4)
    x = gaussian(2, 10, 12)
    expected = module(x)
    assert torch.equal(module.half().eval()(x), expected)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_can_be_copied(copied):
    x = gaussian(2, 10, 12)
    module = svdprune.SVDPrune(keep=4, rank=2)
    assert torch.equal(copied(module)(x), module(x))


def test_drops_into_a_model_and_lets_it_train():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 16), svdprune.SVDPrune(keep=4), nn.Linear(16, 3))
    out = model(gaussian(2, 10, 12))
    assert out.shape == (2, 4, 3)
    out.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


class OriginalLlava(nn.Module):
    """As far as ``encode_images`` goes: a tower, a projector, and what holds both."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.tower = nn.Conv2d(3, 24, kernel_size=14, stride=14)
        self.mm_projector = nn.Linear(24, 40)

    def get_model(self):
        return self

    def get_vision_tower(self):
        return lambda images: self.tower(images).flatten(2).mT

    def encode_images(self, images):
        return self.mm_projector(self.get_vision_tower()(images))


def test_the_readmes_lines_prune_in_the_original_llava():
    (code,) = re.findall(r"```python\n(self\.prune = .*?)```", README.read_text(), re.DOTALL)
    model, names = OriginalLlava(), {}
    images = gaussian(2, 3, 336, 336)
    unpruned = model.encode_images(images)
    exec(code, {"self": model, "svdprune_ext": svdprune}, names)
    model.encode_images = types.MethodType(names["encode_images"], model)
    features = model.get_vision_tower()(images)
    kept = svdprune.prune(features, 32).indices
    assert unpruned.shape == (2, 576, 40)
    expected = torch.take_along_dim(unpruned, kept[..., None], dim=1)
    torch.testing.assert_close(model.encode_images(images), expected)


def test_symbolic_trace():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 16), svdprune.SVDPrune(keep=4), nn.Linear(16, 3))
    traced = torch.fx.symbolic_trace(model)
    x = gaussian(2, 10, 12)
    assert torch.equal(traced(x), model(x))
    with pytest.raises(ValueError, match=r"svdprune::prune: keep must be in \[0, N\] = \[0, 3\]"):
        traced(x[:, :3])


class HalfOfThem(nn.Module):
    """Makes its module where it is traced."""

    def forward(self, x):
        return svdprune.SVDPrune(x.shape[1] // 2, rank=2)(x)


@pytest.mark.parametrize("strict", [False, True], ids=["non_strict", "strict"])
def test_keep_may_follow_a_dynamic_shape(strict):
    tokens = torch.export.Dim("tokens", min=4, max=64)
    program = torch.export.export(
        HalfOfThem(), (gaussian(2, 14, 18),), dynamic_shapes={"x": {1: tokens}}, strict=strict
    )
    x = gaussian(2, 20, 18)
    assert torch.equal(program.module()(x), HalfOfThem()(x))


PIVOTED = "left out for select pivoted, which needs no leading directions"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep": -3}, "keep must be an int >= 0, got -3"),
        ({"keep": 2.0}, "keep must be an int >= 0, got 2.0"),
        ({"keep": True}, "keep must be an int >= 0, got True"),
        ({"variance": 0.0}, "variance must be in (0, 1], got 0.0"),
        ({"variance": 1.5}, "variance must be in (0, 1], got 1.5"),
        ({"variance": float("nan")}, "variance must be in (0, 1], got nan"),
        ({"rank": 0}, "rank must be None or an int >= 1, got 0"),
        ({"rank": 2.0}, "rank must be None or an int >= 1, got 2.0"),
        ({"center": "eigh"}, "center must be a bool, got 'eigh'"),
        ({"solver": "zzz"}, "solver must be one of auto, tridiag, eigh, purify, got 'zzz'"),
        ({"select": "best"}, "select must be one of topk, pivoted, got 'best'"),
        ({"select": "pivoted", "variance": 0.8}, f"variance must be {PIVOTED}, got 0.8"),
        ({"select": "pivoted", "rank": 2}, f"rank must be {PIVOTED}, got 2"),
        ({"select": "pivoted", "solver": "eigh"}, f"solver must be {PIVOTED}, got 'eigh'"),
    ],
    ids=str,
)
def test_refuses_at_once_what_no_features_make_right(options, message):
    with pytest.raises(ValueError, match=f"^{re.escape(f'SVDPrune: {message}')}$"):
        svdprune.SVDPrune(**{"keep": 4, **options})


def test_takes_the_numbers_of_numpy():
    x = gaussian(2, 10, 12)
    module = svdprune.SVDPrune(np.int64(4), np.float64(0.5), np.int32(3))
    assert torch.equal(module(x), svdprune.SVDPrune(4, 0.5, 3)(x))


def test_refuses_what_the_operator_refuses():
    with pytest.raises(ValueError, match=r"svdprune::prune: keep must be in \[0, N\] = \[0, 3\]"):
        svdprune.SVDPrune(keep=4)(gaussian(3, 5))
