"""The parts of pruning within the decoder, on a few tokens, worked out by hand."""

import math

import pytest
import torch

from svdprune_ext import FastV, PyramidDrop, SparseVLM
from svdprune_ext.in_decoder import counts, heads, raters, recycling
from svdprune_ext.in_decoder.attention import LayerCall
from svdprune_ext.in_decoder.places import mask_of, places_of
from svdprune_ext.models.layer_slots import Behind, Slots, mask_by_slot
from svdprune_ext.models.stage import Tokens, gather_rows, highest_of_rows

LOG2, LOG3 = math.log(2), math.log(3)


def test_relevance_of_the_text():
    """V T^T = [[log 2, 0, 0], [0, log 3, 0]]; softmax: (2, 1, 1) / 4 and (1, 3, 1) / 5."""
    vision = torch.tensor([[[LOG2, 0.0], [0.0, LOG3]]])
    text = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]])
    ones = torch.ones(1, 3, dtype=torch.bool)
    shares = raters.relevance(vision, text, ones[:, :2], ones)
    torch.testing.assert_close(shares, torch.tensor([[0.35, 0.425, 0.225]]))
    assert raters.above_mean(shares, ones).tolist() == [[True, True, False]]  # the mean is 1 / 3


def test_padding_is_no_text_and_no_vision():
    vision = torch.tensor([[[LOG2, 0.0], [9.0, 9.0]]])
    text = torch.tensor([[[1.0, 0.0], [0.0, 0.0], [50.0, 50.0]]])
    is_vision, is_text = torch.tensor([[True, False]]), torch.tensor([[True, True, False]])
    shares = raters.relevance(vision, text, is_vision, is_text)
    torch.testing.assert_close(shares, torch.tensor([[2 / 3, 1 / 3, 0.0]]))
    nothing = raters.relevance(vision, text, ~is_vision & False, is_text)
    assert nothing.tolist() == [[0.0, 0.0, 0.0]]


def test_raters_are_places_of_the_prompt():
    """Token 0 stands before the image, 1 and 2 are the image, 3 and 4 the text; 4 is like the image."""
    x = torch.tensor([[[9.0, 9.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]])
    vision = torch.tensor([[False, True, True, False, False]])
    text = torch.tensor([[False, False, False, True, True]])
    assert raters.text_raters(x, vision, text, 2, 2)[0].tolist() == [False] * 4 + [True]
    # With one token of text nothing is above the mean: it is the rater.
    one = torch.tensor([[False, False, False, False, True]])
    assert raters.text_raters(x, vision, one, 2, 1)[0].tolist() == [False] * 4 + [True]
    none = torch.zeros_like(vision)
    assert not raters.text_raters(x, none, none, 1, 1).any()
    valid = torch.tensor([[False, True, True, True, False]])
    assert raters.last_token(valid, vision)[0].tolist() == [False, False, False, True, False]
    assert not raters.last_token(valid, none).any()


def layer_call(**changes):
    """Two heads of width 1, one key head; four tokens, of which 0 and 1 are vision and 2 and 3 text."""
    query = torch.tensor([[[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.0, 2.0]]]).unsqueeze(-1)
    key = torch.tensor([[[LOG2, 0.0, 0.0, 0.0]]]).unsqueeze(-1)
    options = {
        "query": query,
        "key": key,
        "scale": 1.0,
        "raters": torch.tensor([[2, 3]]),
        "visual": torch.tensor([[0, 1]]),
        "valid": torch.ones(1, 4, dtype=torch.bool),
        "turns": torch.tensor([[[1.0], [2.0], [1.0], [1.0]]]),
    }
    return LayerCall(**{**options, **changes})


def test_attention_of_the_raters():
    """Softmax over what each rater sees.

    Rater 2 sees tokens 0 to 2: head 0 gives (2, 1, 1) / 4, head 1 (1, 1, 1) / 3. Rater 3 sees all:
    (2, 1, 1, 1) / 5 and, with query 2, (4, 1, 1, 1) / 7.
    """
    scores, attention, _ = layer_call().scores()
    expected = [
        [(1 / 2 + 1 / 3) / 2, (1 / 4 + 1 / 3) / 2],
        [(2 / 5 + 4 / 7) / 2, (1 / 5 + 1 / 7) / 2],
    ]
    torch.testing.assert_close(attention, torch.tensor([expected]))
    torch.testing.assert_close(scores, torch.tensor([expected]).mean(1))


def test_attention_leaves_out_padding():
    """Without token 1 rater 2 gives (2, -, 1) / 3 in head 0 and (1, -, 1) / 2 in head 1."""
    call = layer_call(
        raters=torch.tensor([[2, -1]]),
        visual=torch.tensor([[0, -1]]),
        valid=torch.tensor([[True, False, True, True]]),
    )
    scores, attention, _ = call.scores()
    torch.testing.assert_close(attention, torch.tensor([[[7 / 12, 0.0], [0.0, 0.0]]]))
    torch.testing.assert_close(scores, torch.tensor([[7 / 12, 0.0]]))


def test_heads_and_positions_of_version_2():
    """Position alone gives each rater 1 to token 0 and 2 to token 1, so token 1's attention halves.

    Head 0: token 0 (1/2 + 2/5) / 2, token 1 (1/4 + 1/5) / 4; head 1: (1/3 + 4/7) / 2 and (1/3 + 1/7) / 4. The
    masses are 0.5625 and 0.571: head 1 has more.
    """
    scores = heads.scores_of_best_heads(layer_call(), 1)
    torch.testing.assert_close(scores, torch.tensor([[(1 / 3 + 4 / 7) / 2, (1 / 3 + 1 / 7) / 4]]))
    both = heads.scores_of_best_heads(layer_call(), 14)
    first = torch.tensor([[0.45, 0.1125]])
    torch.testing.assert_close(both, (scores + first) / 2)


def test_density_peaks():
    """On a line at 0, 0, 1, 10, 10.5, in two clusters.

    With k = 2 the mean of d^2 to itself and its nearest is 0, 0, 1/2, 1/8, 1/8: tokens 0 and 1 are densest,
    0 as the lower index. Its reach is the largest distance 10.5; token 1 is 0 from it, 2 is 1 from 0, 3 is 10
    from 0 and 1, which alone are denser, and 4 is 0.5 from 3. Centres: 0 and 3.
    """
    x = torch.tensor([[0.0], [0.0], [1.0], [10.0], [10.5]]).unsqueeze(0)
    cluster = recycling.density_peaks(x, 2)
    assert cluster.tolist() == [[0, 0, 0, 1, 1]]
    torch.testing.assert_close(recycling.means(x, cluster, 2), torch.tensor([[[1 / 3], [10.25]]]))
    assert recycling.density_peaks(torch.ones(1, 3, 4), 2).tolist() == [[0, 1, 0]]


def test_means_of_sixteen_bits_are_summed_in_more():
    x = torch.full((1, 2, 1), 6e4, dtype=torch.float16)  # the sum is too large for float16
    mean = recycling.means(x, torch.zeros(1, 2, dtype=torch.int64), 1)
    assert mean.dtype == torch.float16
    torch.testing.assert_close(mean[0, 0, 0], x[0, 0, 0])


def test_recycled_tokens():
    """Of 11 dropped ones int(11 * 0.3) + 1 = 4 come back, as 4 // 10 + 1 = 1 mean."""
    assert [counts.recycled_counts(n) for n in (0, 1, 11, 276)] == [(0, 0), (1, 1), (4, 1), (83, 9)]
    x = torch.arange(12.0).view(1, 12, 1)
    scores = torch.tensor([[3.0, 9, 1, 1, 1, 1, 8, 1, 7, 1, -torch.inf, 1]])
    merged, numbers = recycling.recycled_rows(x, scores, [11])
    assert numbers == [1]
    torch.testing.assert_close(merged, torch.tensor([[[(0 + 1 + 6 + 8) / 4]]]))
    rows, numbers = recycling.recycled_rows(x.expand(2, -1, -1), scores.expand(2, -1), [11, 0])
    assert numbers == [1, 0]
    assert rows.flatten().tolist() == [3.75, 0.0]


def test_counts():
    budgets = (5, 30, 0.1, 1.0, 1e-12)
    assert [counts.fixed_count(b, 20, 40) for b in budgets] == [5, 20, 4, 20, 1]
    assert counts.fixed_count(0.5, 0, 0) == 0
    assert counts.fixed_count(0.07, 100, 100) == 7
    attention = torch.zeros(3, 4, 9)
    attention[0, 0, 0] = attention[0, 1, 3] = 1  # rank 2
    attention[1] = torch.eye(4, 9)  # rank 4, of 4 tokens: all stay
    attention[2, :, 0] = 1  # rank 1
    assert counts.rank_counts(attention, 2.5, 1.0, [9, 4, 2]) == [6, 4, 1]
    assert PyramidDrop().counts(1, None, [288], [577]) == [144]
    assert FastV(0.25).counts(0, None, [577], [577]) == [145]
    assert SparseVLM(192).counts(1, None, [310, 40], [576, 40]) == [200, 40]
    halves = SparseVLM(
        (0.5, 0.25), layers=(1, 2)
    )  # shares of the first layer's tokens, not of the last's
    assert halves.counts(1, None, [10], [20]) == [5]


def test_ranks_are_those_of_torch():
    generator = torch.Generator().manual_seed(0)
    full = torch.randn(3, 12, 40, generator=generator)
    low = torch.randn(3, 12, 5, generator=generator) @ torch.randn(3, 5, 40, generator=generator)
    graded = full * torch.logspace(0, -9, 12)[:, None]  # the last rows drown in float32
    least = 10 * torch.finfo(torch.float32).eps  # more than 2 columns lose, less than 20 rows do
    tall = torch.tensor([[[1.0, 0.0]] * 10 + [[0.0, least]] * 10])
    for matrices in (full, low, graded, tall, torch.zeros(2, 3, 4)):
        columns = [matrices.shape[2]] * len(matrices)
        expected = torch.linalg.matrix_rank(matrices).tolist()
        assert counts.numerical_ranks(matrices, columns) == expected
    assert counts.numerical_ranks(torch.zeros(2, 0, 4), [4, 4]) == [0, 0]


def test_a_rank_does_not_depend_on_what_else_is_in_the_batch():
    generator = torch.Generator().manual_seed(0)
    attention = torch.zeros(2, 12, 400)
    attention[0] = torch.rand(12, 400, generator=generator)
    attention[1, :6, :10] = (
        torch.rand(6, 10, generator=generator) * torch.logspace(0, -6, 6)[:, None]
    )
    alone = counts.rank_counts(attention[1:, :6, :10], 1.0, 0.0, [10])
    assert counts.rank_counts(attention, 1.0, 0.0, [400, 10])[1:] == alone == [5]


@pytest.mark.parametrize(
    ("version", "nominal", "average", "last"),
    [
        ("1.5", 192, 206.5, 113),  # (3 * 576 + 4 * 309 + 9 * 204 + 16 * 113) / 32
        ("1.5", 128, 145.40625, 39),
        ("1.5", 96, 114.09375, 27),
        ("1.5", 64, 82.25, 18),
        ("2.0", 192, 206.75, 118),  # (3 * 576 + 4 * 300 + 9 * 200 + 16 * 118) / 32
        ("2.0", 128, 144.125, 60),
        ("2.0", 96, 113.9375, 28),
        ("2.0", 64, 81.8125, 20),
    ],
)
def test_what_nominal_numbers_stand_for(version, nominal, average, last):
    """The figures of docs/sparsevlm.md."""
    method, tokens, of_layers = SparseVLM(nominal, version), 576, []
    for layer in range(32):
        of_layers.append(tokens)
        if layer in method.layers_of(32):
            stage = method.layers_of(32).index(layer)
            kept = method.counts(stage, None, [tokens], [576])[0]
            clusters = counts.recycled_counts(tokens - kept)[1] if method.recycles else 0
            tokens = kept + clusters
    assert (sum(of_layers) / 32, of_layers[-1]) == (average, last)


def test_layers():
    assert counts.layers_at_depth((2, 6, 15), 32) == (2, 6, 15)
    assert counts.layers_at_depth((2, 6, 15, 19), 28) == (2, 5, 13, 17)
    assert counts.layers_at_depth((2, 6, 15), 8) == (0, 1, 3)
    assert counts.layers_at_depth((2, 6, 15), 4) == (0, 1, 2)
    with pytest.raises(ValueError, match="layers must be given for a decoder of 3 layers"):
        counts.layers_at_depth((2, 6, 15), 3)
    assert FastV(4).layers_of(32) == (1,)
    assert PyramidDrop().layers_of(32) == (7, 15, 23)
    assert SparseVLM(64, "1.0").layers_of(32) == (2, 6, 15, 19)


def test_ties_go_to_the_lower_index():
    scores = torch.tensor([[1.0, 2.0, 1.0, 2.0], [5.0, 5.0, 5.0, 5.0]])
    kept = highest_of_rows(scores, [3, 2])
    assert kept.tolist() == [[True, True, False, True], [True, True, False, False]]


def test_a_cut():
    """Text, vision 1 to 3, text; 2 is dropped, and what it becomes stands before the text."""
    ones = torch.ones(1, 5, dtype=torch.bool)
    vision = torch.tensor([[False, True, True, True, False]])
    tokens = Tokens.first(ones, vision, [[5, 3, 1]]).with_raters(~vision)
    kept = torch.tensor([[False, True, False, True, False]])
    recycled = torch.tensor([[[20.0]]])
    after, order = tokens.cut(kept, [2], recycled, [1])
    states = gather_rows(torch.arange(5.0).view(1, 5, 1), recycled, order, after.valid)
    assert states.flatten().tolist() == [0, 1, 3, 20, 4]
    assert after.source.tolist() == [[0, 1, 3, -1, 4]]
    assert after.vision.tolist() == [[False, True, True, True, False]]
    assert after.raters.tolist() == [[True, False, False, False, True]]
    assert (after.num_valid, after.num_vision) == ([5], [3])
    assert after.spread(states, 5).flatten().tolist() == [0, 1, 1, 3, 4]


def test_rows_of_a_cut_are_packed_to_the_right():
    valid = torch.tensor([[True] * 4, [False, False, True, True]])
    vision = torch.tensor([[True, True, False, False], [False] * 4])
    tokens = Tokens.first(valid, vision, [[4, 2, 2], [2, 0, 0]])
    after, order = tokens.cut(torch.tensor([[False, True, False, False]] * 2), [1, 0], None, [0, 0])
    assert order.tolist()[0] == [1, 2, 3]
    assert after.valid.tolist() == [[True] * 3, [False, True, True]]
    assert after.source.tolist() == [[1, 2, 3], [-1, 2, 3]]
    assert after.spread(torch.tensor([[[1.0], [2], [3]]] * 2), 4)[1].flatten().tolist() == [
        2,
        2,
        2,
        3,
    ]


def test_masks_by_slot():
    valid = torch.tensor([[False, True, True, True]])
    behind = Behind(valid, torch.zeros(1, 1, dtype=torch.int64), is_full=False)
    seen = mask_by_slot(behind, 2, "sdpa", torch.float32)
    assert seen[0, 0].tolist() == [[False, True, True, False], [False, True, True, True]]
    padding = Behind(torch.tensor([[True, False, True]]), behind.shift, is_full=False)
    of_padding = mask_by_slot(padding, 2, "sdpa", torch.float32)[0, 0]
    assert of_padding.tolist() == [[True, True, False], [True, False, True]]  # it sees itself
    added = mask_by_slot(behind, 2, "eager", torch.float32)
    assert torch.equal(added == 0, seen)
    assert mask_by_slot(behind, 2, "flash_attention_2", torch.float32) is valid
    full = Behind(torch.ones_like(valid), behind.shift, is_full=True)
    assert mask_by_slot(full, 4, "sdpa", torch.float32) is None
    assert mask_by_slot(full, 1, "sdpa", torch.float32) is None
    assert mask_by_slot(full, 2, "sdpa", torch.float32).sum() == 7


def test_slots_of_a_cache_that_grew_or_was_cropped():
    behind = Behind(torch.ones(1, 4, dtype=torch.bool), torch.tensor([[6]]), is_full=True)
    slots = Slots((behind,), 10, 3)
    assert slots.at(12).behind[0].valid.shape == (1, 6)
    assert slots.at(8).behind[0].valid.shape == (1, 2)
    assert slots.at(8).text == 1
    with pytest.raises(ValueError, match="4 slots were cropped, of which 3 are text"):
        slots.at(6)


def test_places():
    mask = torch.tensor([[False, True, True], [False, False, True]])
    places = places_of(mask, 2)
    assert places.tolist() == [[1, 2], [2, -1]]
    assert torch.equal(mask_of(places, 3), mask)
