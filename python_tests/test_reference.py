"""The oracle on examples that can be checked by hand, and the reference implementations against it."""

import math

import pytest
import torch
from agreement import assert_agrees
from samples import gaussian, photograph

from svdprune_ext.reference import (
    gram_eigh_prune,
    oracle_coverage,
    oracle_leverage,
    oracle_topk,
    reference_prune,
)

# Rows along three axes: energies 9 + 16 = 25, 4 and 1, of 30. The first axis is shared by tokens 0
# and 2, as 9 : 16; the others have one token each.
AXES = torch.tensor([[3.0, 0, 0], [0, 2, 0], [4, 0, 0], [0, 0, 1]])


@pytest.mark.parametrize(
    ("variance", "rank", "scores"),
    [
        (0.5, 1, [0.36, 0, 0.64, 0]),
        (25 / 30 - 1e-9, 1, [0.36, 0, 0.64, 0]),
        (25 / 30 + 1e-9, 2, [0.36, 1, 0.64, 0]),
        (0.9, 2, [0.36, 1, 0.64, 0]),
        (0.99, 3, [0.36, 1, 0.64, 1]),
        (1.0, 3, [0.36, 1, 0.64, 1]),
    ],
)
def test_worked_example(variance, rank, scores):
    oracle = oracle_leverage(AXES, variance)
    assert oracle.rank == rank
    assert oracle.scores.tolist() == pytest.approx(scores, abs=1e-12)
    assert oracle.energy.tolist() == pytest.approx([1, 4 / 25, 1 / 25])


def test_two_tokens_at_an_angle():
    # [1, 0] and [1, 1]: eigenvalues (3 +- sqrt 5) / 2, leading left vector along [1, golden ratio].
    golden = (1 + math.sqrt(5)) / 2
    oracle = oracle_leverage(torch.tensor([[1.0, 0], [1, 1]]), rank=1)
    assert oracle.energy.tolist() == pytest.approx([1, golden**-4])
    total = 1 + golden**2
    assert oracle.scores.tolist() == pytest.approx([1 / total, golden**2 / total])


def test_a_rank_overrides_the_variance():
    oracle = oracle_leverage(AXES, variance=0.1, rank=3)
    assert oracle.rank == 3
    assert oracle.scores.sum().item() == pytest.approx(3)


def test_centering():
    # About the mean [2, 0] only the first axis is left, shared evenly by the outer tokens.
    oracle = oracle_leverage(torch.tensor([[1.0, 0], [2, 0], [3, 0]]), center=True)
    assert oracle.rank == 1
    assert oracle.scores.tolist() == pytest.approx([0.5, 0, 0.5])


@pytest.mark.parametrize("shape", [(3, 4), (0, 4), (3, 0)], ids=str)
def test_no_energy(shape):
    oracle = oracle_leverage(torch.zeros(shape))
    assert oracle.rank == 0
    assert oracle.scores.tolist() == [0] * shape[0]


def test_scores_are_the_diagonal_of_the_projector():
    x = gaussian(20, 30, dtype=torch.float64)
    oracle = oracle_leverage(x, rank=4)
    leading = torch.linalg.eigh(x @ x.mT).eigenvectors[:, -4:]
    torch.testing.assert_close(oracle.scores, (leading @ leading.mT).diagonal())


def test_topk():
    scores = torch.tensor([0.5, 0.9, 0.5, 0.1, 0.5])
    assert oracle_topk(scores, 0).tolist() == []
    assert oracle_topk(scores, 1).tolist() == [1]
    assert oracle_topk(scores, 3).tolist() == [0, 1, 2]
    assert oracle_topk(scores, 5).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("max_keep", "coverage", "kept"),
    [
        (4, 0.25, [2]),
        (4, 0.5, [2]),
        (4, 0.51, [0, 2]),
        (4, 0.75, [0, 2]),
        (4, 1.0, [0, 2, 3]),
        (1, 1.0, [2]),
        (0, 0.5, []),
    ],
)
def test_coverage(max_keep, coverage, kept):
    scores = torch.tensor([0.25, 0.0, 0.5, 0.25], dtype=torch.float64)
    assert oracle_coverage(scores, max_keep, coverage).tolist() == kept


def test_coverage_of_zeros_keeps_nothing():
    assert oracle_coverage(torch.zeros(3), 3, 0.9).tolist() == []


@pytest.mark.parametrize("reference", [reference_prune, gram_eigh_prune])
@pytest.mark.parametrize(
    "make",
    [
        lambda: gaussian(3, 40, 56),
        lambda: gaussian(2, 90, 24),
        lambda: gaussian(2, 30, 40, dtype=torch.float64),
        lambda: gaussian(2, 30, 40, dtype=torch.bfloat16),
        lambda: photograph()[None],
    ],
    ids=["batch", "more_tokens", "float64", "bfloat16", "photograph"],
)
def test_references_agree_with_the_oracle(make, reference):
    x = make()
    tokens, indices, scores, rank = reference(x, 8)
    assert_agrees(x, scores.clamp(0, 1), rank, indices, options={})
    assert torch.equal(tokens, torch.take_along_dim(x, indices[..., None], dim=1))
