"""Bad arguments of ``rater_scores`` are refused before any work: which one, what was expected, what came."""

import re

import pytest
import torch

import svdprune_ext as svdprune

RIGHT = {
    "q": torch.zeros(2, 4, 6, 8),
    "k": torch.zeros(2, 2, 9, 8),
    "raters": torch.tensor([[5, 1, -1]] * 2),
    "visual": torch.tensor([[0, 8]] * 2),
}


def call(**changes):
    return svdprune.rater_scores(**{**RIGHT, **changes})


def test_the_call_is_right_without_a_change():
    assert call().scores.shape == (2, 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"q": torch.zeros(2, 4, 6, 8, dtype=torch.int64)},
            "q must be float64, float32, float16 or bfloat16, got Long",
        ),
        ({"k": torch.zeros(2, 2, 9, 8).half()}, "k must have q's dtype Float, got Half"),
        ({"q": torch.zeros(4, 6, 8)}, "q must be [B, H, L, d] with H, d >= 1, got shape [4, 6, 8]"),
        (
            {"q": torch.zeros(2, 4, 6, 0), "k": torch.zeros(2, 2, 9, 0)},
            "q must be [B, H, L, d] with H, d >= 1, got shape [2, 4, 6, 0]",
        ),
        (
            {"q": torch.zeros(2, 0, 6, 8)},
            "q must be [B, H, L, d] with H, d >= 1, got shape [2, 0, 6, 8]",
        ),
        (
            {"k": torch.zeros(2, 2, 9, 7)},
            "k must be [B, Hkv, S, d] with B = 2 and d = 8 of q, got shape [2, 2, 9, 7]",
        ),
        (
            {"k": torch.zeros(1, 2, 9, 8)},
            "k must be [B, Hkv, S, d] with B = 2 and d = 8 of q, got shape [1, 2, 9, 8]",
        ),
        (
            {"k": torch.zeros(2, 3, 9, 8)},
            "k must have a number of heads that divides the 4 of q, got 3",
        ),
        (
            {"k": torch.zeros(2, 0, 9, 8)},
            "k must have a number of heads that divides the 4 of q, got 0",
        ),
        (
            {"k": torch.zeros(2, 2, 5, 8)},
            "k must have a key for each of the 6 queries where causal, got 5",
        ),
        ({"raters": RIGHT["raters"].int()}, "raters must be int64, got Int"),
        ({"raters": RIGHT["raters"][0]}, "raters must be [B, R] with B = 2 of q, got shape [3]"),
        ({"visual": RIGHT["visual"].float()}, "visual must be int64, got Float"),
        (
            {"visual": RIGHT["visual"][:1]},
            "visual must be [B, N] with B = 2 of q, got shape [1, 2]",
        ),
        ({"raters": torch.tensor([[0], [6]])}, "raters must lie in [-1, 6), got 6 in prompt 1"),
        ({"raters": torch.tensor([[-2], [0]])}, "raters must lie in [-1, 6), got -2 in prompt 0"),
        ({"visual": torch.tensor([[0], [9]])}, "visual must lie in [-1, 9), got 9 in prompt 1"),
        ({"mask": torch.zeros(2, 9)}, "mask must be bool, got Float"),
        (
            {"mask": torch.ones(2, 6, dtype=torch.bool)},
            "mask must be [B, S] = [2, 9] or [B or 1, H or 1, L, S] = [2, 4, 6, 9], got shape [2, 6]",
        ),
        (
            {"mask": torch.ones(2, 2, 6, 9, dtype=torch.bool)},
            "mask must be [B, S] = [2, 9] or [B or 1, H or 1, L, S] = [2, 4, 6, 9], got shape [2, 2, 6, 9]",
        ),
        ({"scale": float("nan")}, "scale must be finite, got nan"),
        ({"scale": float("inf")}, "scale must be finite, got inf"),
        ({"scale": 1e39}, "scale must be 0 or a normal number of float32, got 1e+39"),
        ({"scale": -1e-40}, "scale must be 0 or a normal number of float32, got -1e-40"),
        ({"head_weights": torch.ones(2, 4).double()}, "head_weights must be float32, got Double"),
        ({"head_weights": torch.ones(4)}, "head_weights must be [B, H] = [2, 4], got shape [4]"),
    ],
)
def test_bad_arguments(changes, message):
    with pytest.raises(ValueError, match=re.escape(f"svdprune::rater_scores: {message}")):
        call(**changes)


@pytest.mark.parametrize("name", ["q", "raters", "visual"])
def test_the_fake_kernel_refuses_shapes_too(name):
    changed = {**RIGHT, name: RIGHT[name][0]}
    with pytest.raises(ValueError, match=f"svdprune::rater_scores: {name} must be"):
        svdprune.rater_scores(**{key: tensor.to("meta") for key, tensor in changed.items()})


OPTIONAL = {
    "mask": torch.ones(2, 9, dtype=torch.bool),
    "head_weights": torch.ones(2, 4),
    "divisor": torch.ones(2, 3, 2),
}


@pytest.mark.parametrize(
    ("op", "name"),
    [
        *(("rater_scores", name) for name in ("k", "raters", "visual", "mask", "head_weights")),
        *(("rater_scores_by_head", name) for name in ("k", "raters", "visual", "mask", "divisor")),
    ],
)
def test_a_meta_tensor_among_others(op, name):
    changed = {**RIGHT, name: {**RIGHT, **OPTIONAL}[name].to("meta")}
    message = f"svdprune::{op}: {name} must be on the device of q, the CPU, got meta"
    with pytest.raises(ValueError, match=message):
        getattr(svdprune, op)(**changed)
