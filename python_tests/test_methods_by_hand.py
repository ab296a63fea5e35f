"""Each method on a few tokens, with the result worked out by hand from its paper."""

from math import log

import pytest
import torch

from svdprune_ext.methods import fastv_scores, get
from svdprune_ext.methods.attention import attention_received, attention_row


def tokens(*rows):
    return torch.tensor([rows], dtype=torch.float32)


def kept(name, x, keep, **options):
    return get(name).select(x, keep, **options).indices[0].tolist()


def test_svd_and_ridge_part_where_tokens_repeat():
    # X^T X = diag(8, 1). Rank 1 keeps the first direction: l = 4/8, 4/8, 0.
    x = tokens((2, 0), (2, 0), (0, 1))
    svd = get("svd").select(x, 1, rank=1)
    torch.testing.assert_close(svd.scores, torch.tensor([[0.5, 0.5, 0.0]]))
    assert svd.indices.tolist() == [[0]]
    # What rank 1 leaves is 1, so lambda = 1: l = 4/(8+1), 4/(8+1), 1/(1+1).
    ridge = get("ridge").select(x, 1, rank=1)
    expected = torch.tensor([[4 / 9, 4 / 9, 0.5]], dtype=torch.float64)
    torch.testing.assert_close(ridge.scores, expected)
    assert ridge.indices.tolist() == [[2]]


def test_ridge_takes_the_rank_from_the_energy():
    # Energies 4 and 1: 0.8 of 5 is held by one direction, which leaves lambda = 1; 0.9 needs both, and
    # leaves 0.
    x = tokens((2, 0, 0), (0, 1, 0))
    scores = get("ridge").select(x, 1, variance=0.8).scores
    torch.testing.assert_close(scores, torch.tensor([[0.8, 0.5]], dtype=torch.float64))
    scores = get("ridge").select(x, 1, variance=0.9).scores
    torch.testing.assert_close(scores, torch.tensor([[1.0, 1.0]], dtype=torch.float64))


def test_ridge_shares_lambda_among_the_directions_of_the_rank():
    # Energies 9, 4, 2; rank 2 leaves 2, so lambda = 2/2 = 1.
    x = tokens((3, 0, 0), (0, 2, 0), (0, 0, 2**0.5))
    scores = get("ridge").select(x, 1, rank=2).scores
    torch.testing.assert_close(scores, torch.tensor([[0.9, 0.8, 2 / 3]], dtype=torch.float64))


def test_ridge_gives_nothing_to_directions_without_energy():
    x = tokens((1, 0), (1, 0), (0, 0))
    scores = get("ridge").select(x, 1).scores
    torch.testing.assert_close(scores, torch.tensor([[0.5, 0.5, 0.0]], dtype=torch.float64))


def test_ridge_gives_nothing_to_directions_that_only_rounding_holds():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 9, 2, generator=generator) @ torch.randn(4, 2, 6, generator=generator)
    scores = get("ridge").select(x.double(), 1, variance=1.0).scores
    torch.testing.assert_close(scores.sum(1), torch.full((4,), 2.0, dtype=torch.float64))


def test_deflation_parts_where_tokens_repeat():
    # Left over are 9, 9, 4: token 0. Then 0, 0, 4: token 2. Top-K of rank 1 keeps both copies.
    x = tokens((3, 0), (3, 0), (0, 2))
    assert kept("svd", x, 2, rank=1) == [0, 1]
    assert kept("svd", x, 2, select="pivoted") == [0, 2]


@pytest.mark.parametrize("name", ["css", "qdeim"])
def test_where_nothing_is_left_the_lowest_indices_follow(name):
    assert kept(name, tokens((0, 0), (0, 0), (0, 0), (1, 0)), 3) == [0, 1, 3]


def test_qdeim():
    # Three unit directions of energy 8, 4 and 1: leverage 1/2, 1/2, 1, 1. 0.9 of 13 takes two of them, so
    # token 3 has none: token 2, one of the copies, and then it starts anew.
    x = tokens((2, 0, 0), (2, 0, 0), (0, 2, 0), (0, 0, 1))
    assert [kept("qdeim", x, keep) for keep in (1, 2, 3)] == [[2], [0, 2], [0, 1, 2]]
    assert kept("qdeim", x, 3, variance=1.0) == [0, 2, 3]
    # Weighted, the copies and token 2 have 4 each.
    assert [kept("qdeim", x, keep, weighted=True) for keep in (1, 2)] == [[0], [0, 2]]


def test_css():
    # G = [[4, 4, 0, 2], [4, 4, 0, 2], [0, 0, 9, 0], [2, 2, 0, 1]]: drops 36/4, 36/4, 81/9 and 9/1 are all 9,
    # the first goes; what is left is token 2's.
    x = tokens((2, 0), (2, 0), (0, 3), (1, 0))
    assert [kept("css", x, keep) for keep in (1, 2)] == [[0], [0, 2]]
    # Leverage and length choose (0, 3); the drop of a direction shared by three tokens is 4 + 4 + 4.
    x = tokens((0, 3), (2, 0), (2, 0), (2, 0))
    assert kept("css", x, 1) == [1]
    assert kept("svd", x, 1, select="pivoted") == [0]


def test_norm():
    x = tokens((3, 4), (0, 6), (1, 1), (-6, 0))  # 5, 6, sqrt 2, 6
    assert [kept("norm", x, keep) for keep in (1, 2, 3)] == [[1], [1, 3], [0, 1, 3]]


def test_uniform_takes_the_middles_of_strips_and_shares():
    x = torch.zeros(1, 16, 2)  # 4 x 4
    assert kept("uniform", x, 1) == [10]  # row 2, column 2
    assert kept("uniform", x, 3) == [6, 13, 15]  # rows 1 and 3; one in the first, two in the second
    assert kept("uniform", x, 4) == [5, 7, 13, 15]  # rows 1 and 3, columns 1 and 3
    # 2 x 8: sqrt(4 * 2/8) = 1 row, whose shares of two columns have their middles at 1, 3, 5, 7.
    assert kept("uniform", x, 4, grid=(2, 8)) == [9, 11, 13, 15]
    # 12 tokens are no square: one row.
    assert kept("uniform", x[:, :12], 3) == [2, 6, 10]
    # 10 of 2 x 8 tokens: sqrt(10 * 2/8) = 1.6, 2 rows of 5 of 8 columns.
    assert kept("uniform", x, 10, grid=(2, 8)) == [0, 2, 4, 5, 7, 8, 10, 12, 13, 15]


def test_divprune_starts_at_the_loneliest_token():
    # Cosine distances, whatever the lengths: 0-1: 0, 0-2: 1, 0-3: 2, 1-2: 1, 1-3: 2, 2-3: 1.
    x = tokens((3, 0), (1, 0), (0, 2), (-5, 0))
    # To their nearest: 0, 0, 1, 1: token 2. From it all are at 1: token 0. Then 1 is at 0, 3 at min(1, 2).
    assert [kept("divprune", x, k) for k in range(1, 5)] == [[2], [0, 2], [0, 2, 3], [0, 1, 2, 3]]


def test_cdpruner_without_relevance():
    # Token 0 first, of equals. Left of the others: 1 - 0.8^2 = 0.36, and 1 - 0: token 2.
    x = tokens((2, 0), (0.8, 0.6), (0, 5))
    assert [kept("cdpruner", x, k) for k in (1, 2, 3)] == [[0], [0, 2], [0, 1, 2]]


def test_cdpruner_with_relevance():
    # Attention 1, 3, 2 scales to r = 0, 1, 0.5. First r^2 = 0, 1, 0.25: token 1. Left of token 2:
    # 0.25 - (0.5 * 0.6)^2 = 0.16; of token 0: nothing.
    x = tokens((2, 0), (0.8, 0.6), (0, 5))
    attention = torch.tensor([[1.0, 3.0, 2.0]])
    assert [kept("cdpruner", x, k, attention=attention) for k in (1, 2)] == [[1], [1, 2]]


def test_equal_relevance_is_none():
    x = torch.randn(1, 9, 4, generator=torch.Generator().manual_seed(0))
    level = torch.full((1, 9), 0.25)
    assert kept("cdpruner", x, 4, attention=level) == kept("cdpruner", x, 4)


def test_rounding_does_not_decide_between_tokens_that_are_spanned():
    row = torch.randn(8, 1, 16, generator=torch.Generator().manual_seed(0))
    x = row * torch.rand(8, 20, 1, generator=torch.Generator().manual_seed(1))
    indices = get("cdpruner").select(x, 3).indices
    assert indices.tolist() == [[0, 1, 2]] * 8


def test_cdpruner_maximises_the_determinant_step_by_step():
    x = torch.randn(1, 9, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    unit = x[0] / x[0].norm(dim=1, keepdim=True)
    chosen = [0]
    for _ in range(4):
        others = [i for i in range(9) if i not in chosen]
        volume = [torch.det(unit[[*chosen, i]] @ unit[[*chosen, i]].mT) for i in others]
        chosen.append(others[int(torch.stack(volume).argmax())])
    assert kept("cdpruner", x, 5) == sorted(chosen)


def test_dart_adds_to_each_pivot_what_is_least_like_it():
    x = tokens((4, 0), (0, 3), (1, 1), (-1, 0), (0, -1), (1, 0))
    # Pivots 0 and 1, of norms 4 and 3. Least like (4, 0) is 3; least like (0, 3), of what is left, 4.
    assert kept("dart", x, 4, pivots=2) == [0, 1, 3, 4]
    assert kept("dart", x, 3, pivots=2) == [0, 1, 3]  # what does not divide goes to the first
    assert kept("dart", x, 2, pivots=2) == [0, 1]
    assert kept("dart", x, 1, pivots=2) == [0]
    # One pivot: cosines of 1 to 5 are 0, 0.7, -1, 0, 1. Token 3, and 1, the first at 0.
    assert kept("dart", x, 3, pivots=1) == [0, 1, 3]


def test_dart_measures_pivots_by_the_l1_norm():
    assert kept("dart", tokens((3.5, 0), (2, 2)), 1, pivots=1) == [1]  # L1: 3.5, 4; L2: 3.5, 2.8


def test_visionzip_merges_the_rest():
    x = tokens((9, 9), (1, 0), (3, 1), (0, 1), (1, 3), (1, 1))
    attention = torch.tensor([[0.4, 0.1, 0.2, 0.1, 0.1, 0.1]])
    # Dominant: 0. The rest is 1 to 5, every second of which is a target: 1 and 3. Token 2 joins 1, token 4
    # joins 3, and token 5, as much like one as the other, joins 1.
    average = get("visionzip").select(x, 3, attention=attention, contextual=2)
    assert average.indices.tolist() == [[0, 1, 3]]
    torch.testing.assert_close(average.tokens, tokens((9, 9), (5 / 3, 2 / 3), (0.5, 2)))
    added = get("visionzip").select(x, 3, attention=attention, contextual=2, merge="add")
    torch.testing.assert_close(added.tokens, tokens((9, 9), (3, 1), (1, 4)))
    # No contextual tokens: the two of highest attention.
    plain = get("visionzip").select(x, 2, attention=attention, contextual=0)
    assert plain.indices.tolist() == [[0, 2]]
    assert torch.equal(plain.tokens, x[:, [0, 2]])
    # More contextual tokens than are kept: as many as are.
    both = get("visionzip").select(x, 2, attention=attention, contextual=2)
    most = get("visionzip").select(x, 2, attention=attention, contextual=9)
    assert torch.equal(most.tokens, both.tokens)


@pytest.mark.parametrize("merge", ["average", "add"])
def test_visionzip_leaves_a_target_that_none_joins_as_it_is(merge):
    x = tokens((5, 0), (2, 0), (0, 0))  # a row of zeros is as much like any target
    attention = torch.tensor([[0.8, 0.1, 0.1]])
    options = {"attention": attention, "contextual": 2, "merge": merge}
    assert torch.equal(get("visionzip").select(x, 3, **options).tokens, x)


@pytest.mark.parametrize(("keep", "contextual"), [(64, 10), (128, 20), (32, 5), (3, 0), (4, 1)])
def test_visionzip_merges_into_ten_of_64(keep, contextual):
    x = torch.arange(600.0).view(1, 200, 3)
    attention = torch.arange(200.0).view(1, -1)
    indices = kept("visionzip", x, keep, attention=attention)
    # The dominant tokens are the last; the targets are spread over what lies before them.
    first_dominant = 200 - (keep - contextual)
    assert sum(i < first_dominant for i in indices) == contextual


@pytest.mark.parametrize("name", ["cls_attention", "fastv"])
def test_attention_is_followed(name):
    attention = torch.tensor([[0.1, 0.3, 0.2, 0.3]])
    selected = get(name).select(torch.zeros(1, 4, 2), 2, attention=attention)
    assert selected.indices.tolist() == [[1, 3]]
    assert torch.equal(selected.scores, attention)
    assert get(name).select(torch.zeros(1, 4, 2), 1, attention=attention).indices.tolist() == [[1]]


def test_attention_row():
    # Head 1: exp of 0, ln 2, ln 3 is 1, 2, 3, of 6. Head 2, with a query of 2: 3, 1, 1, of 5.
    key = torch.tensor([[[[0.0], [log(2)], [log(3)]], [[log(3) / 2], [0.0], [0.0]]]])
    query = torch.tensor([[[1.0], [2.0]]])
    expected = torch.tensor([[(1 / 6 + 3 / 5) / 2, (2 / 6 + 1 / 5) / 2, (3 / 6 + 1 / 5) / 2]])
    torch.testing.assert_close(attention_row(query, key, 1.0), expected)
    torch.testing.assert_close(attention_row(query * 4, key, 0.25), expected)


def test_attention_received():
    # One head. Query 1 gives 1/3 and 2/3, query 0 gives 1/2 each.
    query, key = torch.tensor([[[[1.0], [0.0]]]]), torch.tensor([[[[0.0], [log(2)]]]])
    expected = torch.tensor([[(1 / 3 + 1 / 2) / 2, (2 / 3 + 1 / 2) / 2]])
    torch.testing.assert_close(attention_received(query, key, 1.0), expected)


def test_fastv_scores():
    # Two heads, the last two rows of four; vision tokens 1 and 2.
    first = [[0.5, 0.3, 0.2, 0.0], [0.1, 0.2, 0.3, 0.4]]
    second = [[0.4, 0.1, 0.5, 0.0], [0.1, 0.6, 0.1, 0.2]]
    attention = torch.tensor([[first, second]])
    torch.testing.assert_close(fastv_scores(attention, 1, 2), torch.tensor([[0.3, 0.275]]))
    last_row = fastv_scores(attention[:, :, -1:], 1, 2)
    torch.testing.assert_close(last_row, torch.tensor([[0.4, 0.2]]))
    with pytest.raises(ValueError, match="first and tokens must lie within L = 4, got 3 and 2"):
        fastv_scores(attention, 3, 2)
    with pytest.raises(ValueError, match=r"\[B, heads, Q, L\] with Q >= 1, got shape \[1, 2, 2\]"):
        fastv_scores(attention[..., 0], 0, 1)
