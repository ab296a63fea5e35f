"""apply() on LLaVA: one forward pass equals the unpatched model on the kept tokens."""

import copy

import pytest
import torch
from by_hand import kept_positions, logits_by_hand
from tiny_llava import IMAGE_TOKEN, TOKENS, batch, prompt, tiny_llava

import svdprune_ext

BATCHES = {
    "one image": (prompt(3, "image", 5),),
    "image first": ([IMAGE_TOKEN] * TOKENS + [9, 11, 13],),
    "equal rows": (prompt(3, "image", 5), [*prompt(3, "image", 4), 44]),
    "unequal rows": (prompt(3, "image", 9), prompt(2, "image", 3)),
    "two images and one": (prompt(1, "image", 2, "image", 4), prompt(4, "image", 3)),
    "one row without an image": (prompt(2, "image", 3), prompt(7)),
}


@pytest.fixture(scope="module", params=["sdpa", "eager"])
def model(request):
    return tiny_llava(request.param)


def bitwise_logits(model, inputs, **options):
    with torch.no_grad():
        return model(**inputs, **options).logits


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.parametrize("positions", ["compact", "original"])
def test_keep_k_equals_the_kept_tokens_handed_over_by_hand(model, name, padding, positions):
    inputs = batch(*BATCHES[name], padding=padding)
    expected = logits_by_hand(model, inputs, keep=5, positions=positions)
    with svdprune_ext.apply(model, keep=5, positions=positions):
        if positions == "original":
            # As generate() numbers them: without padding.
            ids = (inputs["attention_mask"].cumsum(1) - 1).clamp_min(0)
            logits = bitwise_logits(model, inputs, position_ids=ids)
        else:
            logits = bitwise_logits(model, inputs)
    assert logits.shape[:2] == inputs["input_ids"].shape
    for row, kept in enumerate(kept_positions(model, inputs, 5)):
        torch.testing.assert_close(logits[row, kept], expected[row], atol=2e-4, rtol=1e-4)


def test_pruning_changes_the_logits(model):
    # Guards the test above: a patch that did nothing would differ from the kept tokens by hand.
    inputs = batch(prompt(3, "image", 5))
    with svdprune_ext.apply(model, keep=5):
        pruned = bitwise_logits(model, inputs)
    assert (pruned[0, -1] - bitwise_logits(model, inputs)[0, -1]).abs().max() > 1e-2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("padding", ["left", "right"])
def test_keep_all_is_bit_identical(dtype, attention, padding):
    model = tiny_llava(attention, dtype)
    inputs = batch(prompt(3, "image", 9), prompt(2, "image", 3), padding=padding, dtype=dtype)
    expected = bitwise_logits(model, inputs)
    with svdprune_ext.apply(model, keep=TOKENS) as handle:
        assert torch.equal(bitwise_logits(model, inputs), expected)
        assert handle.last.indices.tolist() == [list(range(TOKENS))] * 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_equals_the_kept_tokens_by_hand(dtype):
    model = tiny_llava(dtype=dtype)
    inputs = batch(prompt(3, "image", 9), prompt(2, "image", 3), dtype=dtype)
    with svdprune_ext.apply(model, keep=5):
        logits = bitwise_logits(model, inputs)
    expected = logits_by_hand(model, inputs, keep=5)
    for row, kept in enumerate(kept_positions(model, inputs, 5)):
        torch.testing.assert_close(logits[row, kept], expected[row], atol=0.15, rtol=0.05)


def test_text_only_prompt_is_untouched(model):
    inputs = batch(prompt(9), prompt(4))
    expected = bitwise_logits(model, inputs)
    with svdprune_ext.apply(model, keep=5) as handle:
        assert torch.equal(bitwise_logits(model, inputs), expected)
        assert handle.last is None


def test_prompt_without_a_mask(model):
    inputs = batch(prompt(3, "image", 5))
    with svdprune_ext.apply(model, keep=5):
        expected = bitwise_logits(model, inputs)
        del inputs["attention_mask"]
        assert torch.equal(bitwise_logits(model, inputs), expected)


def test_images_with_embeddings_in_place_of_ids(model):
    inputs = batch(prompt(3, "image", 5))
    with svdprune_ext.apply(model, keep=5):
        expected = bitwise_logits(model, inputs)
        embeds = model.get_input_embeddings()(inputs.pop("input_ids"))
        assert torch.equal(bitwise_logits(model, inputs, inputs_embeds=embeds), expected)


def test_a_dropped_tokens_row_repeats_the_one_before(model):
    inputs = batch(prompt(3, "image", 5))
    with svdprune_ext.apply(model, keep=5):
        logits = bitwise_logits(model, inputs)[0]
    kept = kept_positions(model, inputs, 5)[0].tolist()
    for position in set(range(len(logits))) - set(kept):
        before = max(k for k in kept if k < position)
        assert torch.equal(logits[position], logits[before])


def test_last_tells_what_was_kept(model):
    inputs = batch(prompt(3, "image", 9), prompt(2, "image", 3))
    with svdprune_ext.apply(model, keep=5) as handle:
        bitwise_logits(model, inputs)
        assert handle.last.indices.shape == (2, 5)
        assert handle.last.scores.shape == (2, TOKENS)
        assert handle.last.num_tokens == TOKENS
        torch.testing.assert_close(
            handle.last.scores.sum(1), handle.last.rank.float(), atol=1e-4, rtol=0
        )


def test_loss_and_gradients_reach_projector_and_tower():
    model = tiny_llava()
    inputs = batch(prompt(3, "image", 9))
    labels = inputs["input_ids"].masked_fill(inputs["input_ids"] == IMAGE_TOKEN, -100)
    with svdprune_ext.apply(model, keep=5):
        model(**inputs, labels=labels).loss.backward()
    for module in (model.model.multi_modal_projector, model.model.vision_tower):
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        assert gradients
        assert all(g.isfinite().all() for g in gradients)
        assert any(g.abs().max() > 0 for g in gradients)


def traces(module):
    """Whatever a patch could have left on a module: attributes and hooks."""
    return set(module.__dict__), list(module._forward_hooks), list(module._forward_pre_hooks)


def test_remove_restores_the_model_exactly():
    model = tiny_llava()
    inputs = batch(prompt(3, "image", 5))
    expected = bitwise_logits(model, inputs)
    state = copy.deepcopy(model.state_dict())
    before = {name: traces(module) for name, module in model.named_modules()}
    handle = svdprune_ext.apply(model, keep=5)
    bitwise_logits(model, inputs)
    handle.remove()
    handle.remove()
    assert torch.equal(bitwise_logits(model, inputs), expected)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert {name: traces(module) for name, module in model.named_modules()} == before


def test_patching_twice_is_refused_until_removed():
    model = tiny_llava()
    handle = svdprune_ext.apply(model, keep=5)
    with pytest.raises(ValueError, match="patched already"):
        svdprune_ext.apply(model, keep=4)
    handle.remove()
    svdprune_ext.apply(model, keep=4).remove()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep": 0}, r"keep must be an int in \[1, 16\], got 0"),
        ({"keep": 17}, r"keep must be an int in \[1, 16\], got 17"),
        ({"keep": 0.5}, r"keep must be an int in \[1, 16\], got 0.5"),
        ({"keep": True}, r"keep must be an int in \[1, 16\], got True"),
        ({"variance": 0.0}, r"variance must be in \(0, 1\], got 0.0"),
        ({"variance": 1.5}, r"variance must be in \(0, 1\], got 1.5"),
        ({"rank": 0}, r"rank must be None or an int in \[1, 16\], got 0"),
        ({"rank": 17}, r"rank must be None or an int in \[1, 16\], got 17"),
        ({"solver": "svd"}, "solver must be one of auto, tridiag, eigh, purify, got 'svd'"),
        ({"positions": "new"}, 'positions must be "compact" or "original", got \'new\''),
    ],
)
def test_bad_arguments_leave_the_model_alone(options, message):
    model = tiny_llava()
    with pytest.raises(ValueError, match=message):
        svdprune_ext.apply(model, **{"keep": 5, **options})
    assert not model.model.multi_modal_projector._forward_hooks


def test_an_unsupported_model_is_told_what_is_supported():
    with pytest.raises(ValueError, match="LlavaForConditionalGeneration, got Linear"):
        svdprune_ext.apply(torch.nn.Linear(2, 2))
    assert svdprune_ext.supported_models() == ["LlavaForConditionalGeneration"]
