"""Packing, cache layout and positions on sequences small enough to write down."""

import pytest
import torch

from svdprune_ext.models.masks import attention_by_slot
from svdprune_ext.models.sequence import Layout, Packing, compact_positions

# Row 0 drops positions 1 and 2, row 1 drops position 3 only: one filler at row 0's left.
DROPPED = torch.tensor([[0, 1, 1, 0, 0], [0, 0, 0, 1, 0]]).bool()
PACKING = Packing.dropping(DROPPED, most_kept=4)


def test_rows_are_packed_to_the_right():
    assert PACKING.valid.tolist() == [[False, True, True, True], [True] * 4]
    assert PACKING.index[0, 1:].tolist() == [0, 3, 4]
    assert PACKING.index[1].tolist() == [0, 1, 2, 4]


def test_pack_zeroes_the_filler_even_where_the_row_is_nan():
    embeddings = torch.arange(1.0, 11).view(2, 5, 1)
    embeddings[DROPPED] = float("nan")
    assert PACKING.pack(embeddings).squeeze(-1).tolist() == [[0, 1, 4, 5], [6, 7, 8, 10]]


def test_unpack_repeats_the_kept_position_before():
    hidden = torch.tensor([[-1.0, 10, 13, 14], [20, 21, 22, 24]]).unsqueeze(-1)
    expected = [[10, 10, 10, 13, 14], [20, 21, 22, 22, 24]]
    assert PACKING.unpack(hidden).squeeze(-1).tolist() == expected


def test_unpack_where_nothing_is_kept_before():
    packing = Packing.dropping(torch.tensor([[True, True, False]]), most_kept=1)
    assert packing.unpack(torch.tensor([[[7.0]]])).flatten().tolist() == [7, 7, 7]


def test_compact_positions_close_the_gaps():
    ids = torch.arange(5).expand(2, -1)
    positions = compact_positions(ids, PACKING, torch.zeros(2, 1, dtype=torch.long))
    assert positions[0, 1:].tolist() == [0, 1, 2]
    assert positions[1].tolist() == [0, 1, 2, 3]


def test_layout_follows_the_cache():
    layout = Layout.full(2, 0, torch.device("cpu")).extended(PACKING)
    assert layout.positions == 5
    assert layout.dropped.tolist() == [[2], [1]]
    grown = layout.grown_to(6)  # two more tokens were decoded
    assert grown.positions == 7
    assert grown.index[:, -2:].tolist() == [[5, 6], [5, 6]]
    padded = torch.tensor([[1, 1, 1, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1, 1]])
    assert grown.slot_mask(padded).tolist() == [[0, 1, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1]]


def test_layout_follows_a_crop_behind_the_dropped_positions():
    # Row 0 holds positions 0, 3, 4 and row 1 positions 0, 1, 2, 4, in four slots; two more follow.
    layout = Layout.full(2, 0, torch.device("cpu")).extended(PACKING).grown_to(6)
    cropped = layout.cropped_to(4)
    assert cropped.positions == 5
    assert cropped.index.tolist() == PACKING.index.tolist()
    with pytest.raises(ValueError, match="before the last dropped token"):
        layout.cropped_to(2)


def test_a_static_cache_sees_every_later_slot():
    layout = Layout.full(2, 0, torch.device("cpu")).extended(PACKING)
    padding = layout.slot_mask(torch.tensor([[1, 1, 1, 1, 1], [0, 1, 1, 1, 1]]))
    mask = layout.with_capacity(6, padding).static_mask
    assert mask.tolist() == [[0, 1, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1]]


def test_a_mask_by_position_becomes_one_by_slot():
    # Position 2 sees ahead to 4; the rest is causal. Row 0 drops 1 and 2, row 1 drops 3.
    causal = torch.ones(5, 5).tril().bool()
    causal[2, 4] = True
    layout = Layout.full(2, 0, torch.device("cpu")).extended(PACKING)
    mask = attention_by_slot(causal[None, None], PACKING, layout, window=None, capacity=6)
    assert mask.shape == (2, 1, 4, 6)
    assert mask[0, 0, 1:].int().tolist() == [
        [0, 1, 0, 0, 0, 0],
        [0, 1, 1, 0, 0, 0],
        [0, 1, 1, 1, 0, 0],
    ]
    assert mask[1, 0].int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0, 0],
    ]


def test_a_sliding_window_counts_slots():
    layout = Layout.full(2, 0, torch.device("cpu")).extended(PACKING)
    causal = torch.zeros(1, 1, 5, 5).masked_fill(~torch.ones(5, 5).tril().bool(), -1e30)
    near = causal.masked_fill(torch.ones(5, 5).tril(-2).bool(), -1e30)
    mask = {"full_attention": causal, "sliding_attention": near}
    by_slot = attention_by_slot(mask, PACKING, layout, window=2, capacity=None)
    seen = (by_slot["sliding_attention"] == 0).int()
    # Row 0's position 3 sees position 0, which is three away but in the slot before.
    assert seen[0, 0, 1:].tolist() == [[0, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]


def test_a_static_sliding_window_shorter_than_the_prompt_has_room_for_it():
    layout = Layout.full(2, 0, torch.device("cpu")).extended(PACKING)
    causal = torch.ones(1, 1, 5, 5).tril().bool()
    mask = {"full_attention": causal, "sliding_attention": causal}
    by_slot = attention_by_slot(mask, PACKING, layout, window=2, capacity=6)
    assert by_slot["full_attention"].shape == (2, 1, 4, 6)
    assert by_slot["sliding_attention"].shape == (2, 1, 4, 4)


def test_no_mask_is_causal_behind_what_the_cache_holds():
    before = Layout.full(2, 2, torch.device("cpu"))
    sliding = torch.ones(1, 1, 5, 7).bool()
    mask = {"full_attention": None, "sliding_attention": sliding}
    by_slot = attention_by_slot(mask, PACKING, before.extended(PACKING), window=9, capacity=None)
    assert by_slot["full_attention"][1, 0].int().tolist() == [
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 1, 0],
        [1, 1, 1, 1, 1, 1],
    ]


@pytest.mark.parametrize("shape", [(4, 5), (6, 6), (5, 4)])
def test_a_mask_of_other_positions_is_refused(shape):
    layout = Layout.full(2, 0, torch.device("cpu")).extended(PACKING)
    with pytest.raises(ValueError, match=r"must be \[..., 5, at least 5\] where vision"):
        attention_by_slot(torch.ones(1, 1, *shape), PACKING, layout, window=None, capacity=None)
