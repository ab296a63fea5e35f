"""apply() on every family: a forward pass and generate() equal the unpatched model on the kept tokens."""

import pytest
import torch
from by_hand import RANK, greedy_by_hand, kept_positions, logits_by_hand
from tiny_vlms import TINY, batch

import svdprune_ext

BATCHES = {
    "one image": ((3, "image", 5),),
    "unequal rows": ((3, "image", 9), (2, "image", 3)),
    "two images, one and none": ((1, "image", 2, "image", 4), (4, "image", 3), (6,)),
}
NEW = 5


@pytest.fixture(scope="module", params=sorted(TINY))
def model(request):
    return TINY[request.param].build()


def logits_of(model, inputs, **options):
    with torch.no_grad():
        return model(**inputs, **options).logits


def positions_of(inputs, model):
    """As generate() numbers them: without padding."""
    if TINY[type(model).__name__].mrope:
        return {}
    return {"position_ids": (inputs["attention_mask"].cumsum(1) - 1).clamp_min(0)}


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.parametrize("positions", ["compact", "original"])
def test_keep_k_equals_the_kept_tokens_handed_over_by_hand(model, name, padding, positions):
    inputs = batch(model, *BATCHES[name], padding=padding)
    expected = logits_by_hand(model, inputs, keep=4, positions=positions)
    with svdprune_ext.apply(model, keep=4, rank=RANK, positions=positions):
        logits = logits_of(model, inputs, **positions_of(inputs, model))
    assert logits.shape[:2] == inputs["input_ids"].shape
    for row, kept in enumerate(kept_positions(model, inputs, 4)):
        torch.testing.assert_close(logits[row, kept], expected[row], atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", BATCHES)
def test_keep_all_is_bit_identical(model, name, dtype):
    if dtype != torch.float32:
        model = TINY[type(model).__name__].build(dtype=dtype)
    inputs = batch(model, *BATCHES[name], dtype=dtype)
    expected = logits_of(model, inputs)
    with svdprune_ext.apply(model, keep=1000):
        assert torch.equal(logits_of(model, inputs), expected)
    with svdprune_ext.apply(model, keep=1.0, features="projector"):
        assert torch.equal(logits_of(model, inputs), expected)
    with svdprune_ext.apply(model, keep=4, rank=RANK):
        assert not torch.equal(logits_of(model, inputs), expected)
    assert torch.equal(logits_of(model, inputs), expected)


@pytest.mark.parametrize("positions", ["compact", "original"])
@pytest.mark.parametrize("name", BATCHES)
def test_greedy_generation_equals_decoding_by_hand(model, name, positions):
    inputs = batch(model, *BATCHES[name])
    expected = greedy_by_hand(model, inputs, 4, NEW, positions)
    with svdprune_ext.apply(model, keep=4, rank=RANK, positions=positions):
        ids = model.generate(**inputs, max_new_tokens=NEW, do_sample=False)
    assert torch.equal(ids[:, inputs["input_ids"].shape[1] :], expected)
