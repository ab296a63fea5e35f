"""apply() on LLaVA-1.5: what comes out of a forward pass, what is noted, and what is refused."""

import copy

import pytest
import torch
import transformers
from by_hand import RANK, kept_positions, logits_by_hand
from tiny_configs import TINY, text
from tiny_vlms import BOS, IMAGE, batch, seeded

import svdprune_ext

LLAVA = TINY["LlavaForConditionalGeneration"]
TOKENS = 16


@pytest.fixture(scope="module", params=["sdpa", "eager"])
def model(request):
    return LLAVA.build(request.param)


def logits_of(model, inputs, **options):
    with torch.no_grad():
        return model(**inputs, **options).logits


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_equals_the_kept_tokens_by_hand(dtype):
    model = LLAVA.build(dtype=dtype)
    inputs = batch(model, (3, "image", 9), (2, "image", 3), dtype=dtype)
    with svdprune_ext.apply(model, keep=5, rank=RANK):
        logits = logits_of(model, inputs)
    expected = logits_by_hand(model, inputs, keep=5)
    for row, kept in enumerate(kept_positions(model, inputs, 5)):
        torch.testing.assert_close(logits[row, kept], expected[row], atol=0.15, rtol=0.05)


def test_a_prompt_that_begins_with_an_image(model):
    inputs = batch(model, ("image", 3))
    inputs = {k: v[:, 2:] if v.dim() == 2 else v for k, v in inputs.items()}
    assert inputs["input_ids"][0, 0] == IMAGE
    expected = logits_by_hand(model, inputs, keep=5)[0]
    with svdprune_ext.apply(model, keep=5, rank=RANK):
        logits = logits_of(model, inputs)[0]
    kept = kept_positions(model, inputs, 5)[0]
    torch.testing.assert_close(logits[kept], expected, atol=2e-4, rtol=1e-4)


def test_images_of_any_size_from_pixtrals_tower():
    tower = transformers.PixtralVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=56,
        patch_size=7,
    )
    config = transformers.LlavaConfig(
        vision_config=tower,
        text_config=text(transformers.LlamaConfig),
        image_token_id=IMAGE,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    model = seeded(transformers.LlavaForConditionalGeneration(config), torch.float32)
    ids = torch.tensor([[BOS, *[IMAGE] * 32, 7, 8, *[IMAGE] * 64, 9, 10]])
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(1)),
        "image_sizes": torch.tensor([[28, 56], [56, 56]]),
    }
    expected = logits_by_hand(model, inputs, keep=5)[0]
    with svdprune_ext.apply(model, keep=5, rank=RANK) as handle:
        logits = logits_of(model, inputs)[0]
    assert handle.last.num_tokens == (32, 64)
    kept = kept_positions(model, inputs, 5)[0]
    torch.testing.assert_close(logits[kept], expected, atol=2e-4, rtol=1e-4)


def test_prompt_without_a_mask(model):
    inputs = batch(model, (3, "image", 5))
    with svdprune_ext.apply(model, keep=5):
        expected = logits_of(model, inputs)
        del inputs["attention_mask"]
        assert torch.equal(logits_of(model, inputs), expected)


def test_a_dropped_tokens_row_repeats_the_one_before(model):
    inputs = batch(model, (3, "image", 5))
    with svdprune_ext.apply(model, keep=5, rank=RANK):
        logits = logits_of(model, inputs)[0]
    kept = kept_positions(model, inputs, 5)[0].tolist()
    for position in set(range(len(logits))) - set(kept):
        before = max(k for k in kept if k < position)
        assert torch.equal(logits[position], logits[before])


def test_the_projector_runs_on_kept_tokens_only(model):
    inputs = batch(model, (3, "image", 5), ("image", 2))
    sizes = []
    projector = model.model.multi_modal_projector
    hook = projector.linear_1.register_forward_pre_hook(lambda _, args: sizes.append(args[0].shape))
    with svdprune_ext.apply(model, keep=5):
        logits_of(model, inputs)
    with svdprune_ext.apply(model, keep=5, features="projector"):
        logits_of(model, inputs)
    hook.remove()
    assert sizes == [(1, 10, 32), (2, TOKENS, 32)]


def test_last_tells_what_was_kept(model):
    inputs = batch(model, (3, "image", 9), (2, "image", 3))
    with svdprune_ext.apply(model, keep=5) as handle:
        assert handle.last is None
        logits_of(model, inputs)
        last = handle.last
        logits_of(model, batch(model, (7,)))
        assert handle.last is last  # text has no images
    assert last.num_tokens == (TOKENS, TOKENS)
    assert last.num_kept == (5, 5)
    assert [len(indices) for indices in last.indices] == [5, 5]
    totals = torch.stack([scores.sum() for scores in last.scores])
    torch.testing.assert_close(totals, last.rank.float(), atol=1e-4, rtol=0)


def traces(module):
    """Whatever a patch could have left on a module: attributes and hooks."""
    return set(module.__dict__), list(module._forward_hooks), list(module._forward_pre_hooks)


def test_remove_leaves_no_trace():
    model = LLAVA.build()
    inputs = batch(model, (3, "image", 5))
    expected = logits_of(model, inputs)
    state = copy.deepcopy(model.state_dict())
    before = {name: traces(module) for name, module in model.named_modules()}
    handle = svdprune_ext.apply(model, keep=5)
    logits_of(model, inputs)
    handle.remove()
    handle.remove()
    assert torch.equal(logits_of(model, inputs), expected)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert {name: traces(module) for name, module in model.named_modules()} == before


def test_an_error_in_the_encoder_leaves_the_patch_usable(model):
    inputs = batch(model, (3, "image", 5))
    with svdprune_ext.apply(model, keep=5):
        expected = logits_of(model, inputs)
        broken = {**inputs, "pixel_values": torch.full_like(inputs["pixel_values"], float("nan"))}
        with pytest.raises(ValueError, match="NaN"):
            logits_of(model, broken)
        assert torch.equal(logits_of(model, inputs), expected)


def test_patching_twice_is_refused_until_removed():
    model = LLAVA.build()
    handle = svdprune_ext.apply(model, keep=5)
    with pytest.raises(ValueError, match="patched already"):
        svdprune_ext.apply(model, keep=4)
    handle.remove()
    svdprune_ext.apply(model, keep=4).remove()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep": 0}, r"keep must be an int >= 1 or a float in \(0, 1\], got 0"),
        ({"keep": 1.5}, r"keep must be an int >= 1 or a float in \(0, 1\], got 1.5"),
        ({"keep": True}, r"keep must be an int >= 1 or a float in \(0, 1\], got True"),
        ({"coverage": 0.0}, r"coverage must be None or in \(0, 1\], got 0.0"),
        ({"per": "frame"}, "per must be one of tile, image, prompt, got 'frame'"),
        ({"scope": "all"}, "scope must be one of tile, image, prompt, got 'all'"),
        ({"features": "tower"}, "features must be one of encoder, projector, got 'tower'"),
        ({"variance": 0.0}, r"variance must be in \(0, 1\], got 0.0"),
        ({"variance": 1.5}, r"variance must be in \(0, 1\], got 1.5"),
        ({"rank": 0}, r"rank must be None or an int >= 1, got 0"),
        ({"solver": "svd"}, "solver must be one of auto, tridiag, eigh, purify, got 'svd'"),
        ({"positions": "new"}, "positions must be None or one of compact, original, got 'new'"),
    ],
)
def test_bad_arguments_leave_the_model_alone(options, message):
    model = LLAVA.build()
    before = {name: traces(module) for name, module in model.named_modules()}
    with pytest.raises(ValueError, match=message):
        svdprune_ext.apply(model, **{"keep": 5, **options})
    assert {name: traces(module) for name, module in model.named_modules()} == before


def test_an_unsupported_model_is_told_what_is_supported():
    with pytest.raises(ValueError, match=r"LlavaForConditionalGeneration.*got Linear; docs/adding"):
        svdprune_ext.apply(torch.nn.Linear(2, 2))


@pytest.mark.parametrize("name", ["Gemma3", "PaliGemma"])
def test_flex_attention_is_refused_where_images_see_ahead(name):
    model = TINY[f"{name}ForConditionalGeneration"].build()
    model.set_attn_implementation({"text_config": "flex_attention"})
    inputs = batch(model, (3, "image", 9))
    with (
        svdprune_ext.apply(model, keep=5),
        pytest.raises(ValueError, match="as eager and sdpa attention have it, got BlockMask"),
    ):
        logits_of(model, inputs)


@pytest.mark.parametrize("positions", ["compact", "original"])
def test_prompts_that_drop_different_numbers_go_on_where_they_ended(positions):
    model = LLAVA.build()
    inputs = batch(model, (1, "image", 24), (1, "image", "image", 6))
    assert inputs["attention_mask"].all()
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    first = ids.shape[1] - 5
    with svdprune_ext.apply(model, keep=4, positions=positions), torch.no_grad():
        whole = model(**inputs).logits
        start = {**inputs, "input_ids": ids[:, :first], "attention_mask": mask[:, :first]}
        cache = model(**start, use_cache=True).past_key_values
        rest = model(input_ids=ids[:, first:], attention_mask=mask, past_key_values=cache).logits
    torch.testing.assert_close(rest, whole[:, first:], atol=1e-4, rtol=1e-4)


def test_a_prompt_that_drops_nothing_is_numbered_as_if_it_were_alone():
    model = TINY["Qwen2_5_VLForConditionalGeneration"].build()
    inputs = batch(model, (2, "image", 5), (3, "image", 4, "image", 4))
    small = int(inputs["image_grid_thw"][0].prod()) // 4
    alone = {k: v[:1] for k, v in inputs.items() if k != "pixel_values"}
    alone["pixel_values"] = inputs["pixel_values"][: 4 * small]
    options = {"max_new_tokens": 4, "do_sample": False, "output_logits": True}
    options["return_dict_in_generate"] = True
    with svdprune_ext.apply(model, keep=small, positions="compact") as handle:
        expected = model.generate(**alone, **options).logits
        got = model.generate(**inputs, **options).logits
        assert handle.last.num_kept[0] == small < handle.last.num_tokens[2]
    torch.testing.assert_close(
        torch.stack(got)[:, 0], torch.stack(expected)[:, 0], atol=2e-4, rtol=1e-4
    )
