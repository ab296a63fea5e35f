"""captured_energy: against an SVD, and its refusals."""

import numpy as np
import pytest
import torch
from samples import gaussian

import svdprune_ext as svdprune
from svdprune_ext.reference import oracle_energy


@pytest.mark.parametrize("shape", [(20, 30), (30, 8)], ids=str)
@pytest.mark.parametrize("keep", [1, 5, 12])
def test_against_the_oracle(shape, keep):
    x = gaussian(3, *shape, dtype=torch.float16)
    indices = svdprune.prune(x, keep).indices
    energy = svdprune.captured_energy(x, indices)
    assert energy.dtype == torch.float64
    for image, kept, share in zip(x, indices, energy, strict=True):
        assert float(share) == pytest.approx(oracle_energy(image, kept), abs=1e-9)
        assert svdprune.captured_energy(image, kept).item() == pytest.approx(float(share))


def test_all_rows_hold_all_and_copies_hold_no_more():
    x = gaussian(6, 9)
    everything = torch.arange(6)
    assert svdprune.captured_energy(x, everything).item() == pytest.approx(1, abs=1e-12)
    twice = torch.cat([x, x])
    once = svdprune.captured_energy(twice, torch.tensor([0, 1]))
    copies = svdprune.captured_energy(twice, torch.tensor([0, 1, 6, 7]))
    assert copies.item() == pytest.approx(once.item(), abs=1e-12)


def test_padding_counts_for_nothing():
    x = gaussian(6, 9)
    padded = svdprune.captured_energy(x, torch.tensor([2, 4, -1, -1]))
    assert padded.item() == pytest.approx(svdprune.captured_energy(x, torch.tensor([2, 4])).item())
    assert svdprune.captured_energy(x, torch.tensor([-1])).item() == 0
    assert svdprune.captured_energy(x, torch.tensor([], dtype=torch.int64)).item() == 0


def test_scale_and_zero():
    x = gaussian(6, 9, dtype=torch.float64)
    kept = torch.tensor([1, 3])
    assert svdprune.captured_energy(x * 1e200, kept).item() == pytest.approx(
        svdprune.captured_energy(x, kept).item()
    )
    assert svdprune.captured_energy(torch.zeros(6, 9), kept).item() == 0


@pytest.mark.parametrize(
    ("x", "indices"), [((2, 6, 9), (3,)), ((6, 9), (2, 3)), ((2, 6, 9), (3, 3)), ((9,), (2,))]
)
def test_shapes_are_checked(x, indices):
    with pytest.raises(ValueError, match="captured_energy: indices must be"):
        svdprune.captured_energy(torch.zeros(x), torch.zeros(indices, dtype=torch.int64))


@pytest.mark.parametrize(
    ("x", "indices", "message"),
    [
        (np.zeros((6, 9)), torch.zeros(2, dtype=torch.int64), "x must be a Tensor, got ndarray"),
        (torch.zeros(6, 9), [0, 1], "indices must be a Tensor, got list"),
        (torch.zeros(6, 9), torch.zeros(2), "indices must be int64 or int32, got torch.float32"),
    ],
)
def test_types_are_checked(x, indices, message):
    with pytest.raises(TypeError, match=f"captured_energy: {message}"):
        svdprune.captured_energy(x, indices)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused(value):
    x = torch.zeros(6, 9)
    x[2, 3] = value
    with pytest.raises(ValueError, match="captured_energy: x must be finite, got NaN or Inf"):
        svdprune.captured_energy(x, torch.tensor([0]))


@pytest.mark.parametrize("index", [-2, 6])
def test_indices_are_checked(index):
    with pytest.raises(ValueError, match=r"captured_energy: indices must be in \[-1, 5\]"):
        svdprune.captured_energy(torch.zeros(6, 9), torch.tensor([0, index]))
