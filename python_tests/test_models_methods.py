"""apply(method=...): equals the unpatched model on the tokens that the method keeps, or merges."""

import functools
import re

import pytest
import torch
from by_hand import (
    decoder_inputs,
    kept_positions,
    recorded,
    run_by_hand,
    scored_features,
    sizes_of_images,
    vision_inputs,
)
from tiny_configs import TINY
from tiny_vlms import IMAGE, batch, tiny_of

import svdprune_ext
from svdprune_ext import methods

PROMPTS = ((1, "image", 2, "image", 4), (4, "image", 3), (6,))
KEEP = 5
WITH_CLS = ("Llava", "VipLlava", "LlavaNext")
WITHOUT_CLS = ("LlavaOnevision", "PaliGemma", "Gemma3")
ROW_BY_ROW = (*WITH_CLS, "PaliGemma", "InternVL")
# All methods on one family of each kind, and those that ask something of the family on the others.
CASES = [
    (family, name)
    for family in (*WITH_CLS, *WITHOUT_CLS, "Qwen2_5_VL", "InternVL")
    for name in methods.available()
    if methods.get(name).attention != "decoder"  # test_in_decoder_*.py
    if family in ("Llava", "LlavaNext", "Qwen2_5_VL") or methods.get(name).needs_cls
]


@functools.cache
def model_of(family, attention="eager", dtype=torch.float32):
    # Eager attention shows its weights, for the attention by hand.
    return TINY[f"{family}ForConditionalGeneration"].build(attention, dtype)


def logits_of(model, inputs, **options):
    with torch.no_grad():
        return model(**inputs, **options).logits


def supported(name, family):
    """As the documentation says."""
    return {
        "cls_attention": family in WITH_CLS,
        "visionzip": family in WITH_CLS + WITHOUT_CLS,
    }.get(name, True)


@torch.no_grad()
def attention_by_hand(model, inputs):
    """Of each image's tokens [n], from the whole matrix of the layer that the features come from."""
    tower = model.model.vision_tower
    of_features = getattr(model.config, "vision_feature_layer", -1)
    of_features = of_features if isinstance(of_features, list) else [of_features]
    states = tower.config.num_hidden_layers + 1
    layer = tower.get_submodule("encoder.layers")[max(i % states for i in of_features) - 1]
    calls = []
    with recorded(layer.self_attn, calls):
        model.get_image_features(**vision_inputs(inputs))
    weights = calls[0]["output"][1].mean(1)  # over the heads: [tiles, from, to]
    has_cls = weights.shape[1] % 2 == 1
    given = weights[:, 0, 1:] if has_cls else weights.mean(1)
    return [values.mean(1) for values, _ in scored_features(model, inputs, given.unsqueeze(-1))]


def tile_after_tile(model, inputs, images):
    """LLaVA-NeXT's tokens, sewn together, in the order that a method meets them."""
    if type(model).__name__ != "LlavaNextForConditionalGeneration":
        return images
    tiles = int((inputs["pixel_values"].flatten(2) != 0).any(2).sum())
    numbers = torch.arange(tiles * 16.0).view(tiles, 16, 1)
    orders = [row.flatten().argsort() for row, _ in scored_features(model, inputs, numbers)]
    return [[part[order] for part in image] for image, order in zip(images, orders, strict=True)]


@torch.no_grad()
def by_hand(model, inputs, name, features, **options):
    """For each row: the positions that remain, and the logits there."""
    scored = tile_after_tile(model, inputs, scored_features(model, inputs))
    attention = [None] * len(scored)
    if methods.get(name).needs_cls:
        given = [[image] for image in attention_by_hand(model, inputs)]
        attention = [image[0] for image in tile_after_tile(model, inputs, given)]
    rows = model.get_image_features(**vision_inputs(inputs), return_dict=True).pooler_output
    rows = torch.cat([image.flatten(0, -2) for image in rows])
    rows = rows.split(sizes_of_images(model, inputs))
    kept, merged = [], []
    for image, (encoded, places), given in zip(rows, scored, attention, strict=True):
        x = image[places] if features == "projector" else encoded
        selected = methods.get(name).select(
            x[None], KEEP, attention=None if given is None else given[None], **options
        )
        kept.append(places[selected.indices[0]].sort().values)
        if selected.tokens is not None:
            tokens = selected.tokens
            if features == "encoder":
                tokens = model.model.multi_modal_projector(tokens)
            in_order = places[selected.indices[0]].argsort()
            merged.append(tokens.flatten(0, -2)[in_order])
    call = decoder_inputs(model, inputs)
    embeds, image = call["inputs_embeds"].clone(), 0
    positions = kept_positions(model, inputs, KEEP, kept)
    for row, ids in enumerate(inputs["input_ids"]):
        blocks = (ids == IMAGE).nonzero().flatten()
        while merged and len(blocks):
            block, blocks = blocks[: len(rows[image])], blocks[len(rows[image]) :]
            assert torch.equal(embeds[row, block], rows[image])
            embeds[row, block[kept[image]]] = merged[image]
            image += 1
    result = []
    for row, remains in enumerate(positions):
        ids = torch.arange(len(remains))
        ids = ids.expand(3, 1, -1) if tiny_of(model).mrope else ids[None]
        result.append(run_by_hand(model, call, row, embeds[row, remains][None], ids, remains))
    return positions, result


@pytest.mark.parametrize(("family", "name"), CASES)
def test_equals_the_tokens_handed_over_by_hand(family, name):
    model = model_of(family)
    if not supported(name, family):
        with pytest.raises(ValueError, match="apply: method must be one that"):
            svdprune_ext.apply(model, KEEP, method=name)
        return
    merges_behind = methods.get(name).merges and family not in ROW_BY_ROW
    features = "projector" if merges_behind else "encoder"
    inputs = batch(model, *PROMPTS)
    positions, expected = by_hand(model, inputs, name, features)
    options = {"features": features, "positions": "compact"}
    with svdprune_ext.apply(model, KEEP, method=name, **options) as handle:
        logits = logits_of(model, inputs)
        assert handle.last.num_kept == (KEEP,) * 3
    for row, kept in enumerate(positions):
        torch.testing.assert_close(logits[row, kept], expected[row], atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ["Llava", "LlavaNext"])
def test_pivoted_equals_the_tokens_handed_over_by_hand(family):
    model = model_of(family)
    inputs = batch(model, *PROMPTS)
    positions, expected = by_hand(model, inputs, "svd", "encoder", select="pivoted")
    options = {"select": "pivoted", "energy": True, "positions": "compact"}
    with svdprune_ext.apply(model, KEEP, **options) as handle:
        logits = logits_of(model, inputs)
        held = [scores.sum().item() for scores in handle.last.scores]
        assert handle.last.energy.tolist() == pytest.approx(held, abs=1e-5)
        assert handle.last.rank.tolist() == [KEEP] * 3
    for row, kept in enumerate(positions):
        torch.testing.assert_close(logits[row, kept], expected[row], atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("name", [name for name in methods.available() if name != "fastv"])
def test_keep_all_is_bit_identical_and_remove_restores(name):
    model = model_of("Llava", "sdpa", torch.bfloat16)
    inputs = batch(model, *PROMPTS, dtype=torch.bfloat16)
    expected = logits_of(model, inputs)
    with svdprune_ext.apply(model, 1.0, method=name):
        assert torch.equal(logits_of(model, inputs), expected)
    with svdprune_ext.apply(model, KEEP, method=name):
        assert not torch.equal(logits_of(model, inputs), expected)
    assert torch.equal(logits_of(model, inputs), expected)
    tower = model.model.vision_tower.named_modules()
    projections = [module for name, module in tower if name.endswith(("q_proj", "k_proj"))]
    assert len(projections) == 6
    assert not any(module._forward_hooks for module in projections)


@pytest.mark.parametrize("name", ["cls_attention", "visionzip"])
def test_any_attention_kernel_gives_the_same_choice(name):
    kept = []
    for attention in ("eager", "sdpa"):
        model = model_of("Llava", attention)
        with svdprune_ext.apply(model, KEEP, method=name) as handle:
            logits_of(model, batch(model, *PROMPTS))
            kept.append(torch.cat(handle.last.kept))
    assert torch.equal(*kept)


def test_projector_features_and_the_method_s_own_options_are_used():
    model = model_of("Llava")
    inputs = batch(model, *PROMPTS)
    for name, features, given in (
        ("divprune", "projector", {}),
        ("visionzip", "projector", {"contextual": 2, "merge": "add"}),
        ("visionzip", "encoder", {"contextual": 4}),
        ("dart", "encoder", {"pivots": 2}),
        ("random", "encoder", {"seed": 5}),
    ):
        positions, expected = by_hand(model, inputs, name, features, **given)
        with svdprune_ext.apply(model, KEEP, method=name, features=features, options=given):
            logits = logits_of(model, inputs)
        for row, kept in enumerate(positions):
            torch.testing.assert_close(logits[row, kept], expected[row], atol=2e-4, rtol=1e-4)


def test_scores_are_the_method_s_and_ranks_are_none():
    model = model_of("Llava")
    inputs = batch(model, *PROMPTS)
    attention = attention_by_hand(model, inputs)
    with svdprune_ext.apply(model, KEEP, method="cls_attention") as handle:
        logits_of(model, inputs)
        for scores, expected in zip(handle.last.scores, attention, strict=True):
            torch.testing.assert_close(scores, expected)
        assert handle.last.rank.tolist() == [0, 0, 0]
    with svdprune_ext.apply(model, KEEP, method="divprune") as handle:
        logits_of(model, inputs)
        assert torch.cat(handle.last.scores).isnan().all()


def test_a_budget_of_each_tile():
    model = model_of("LlavaNext")
    inputs = batch(model, (1, "image", 2))
    with svdprune_ext.apply(model, 2, method="norm", per="tile", scope="tile") as handle:
        logits_of(model, inputs)
        assert handle.last.num_kept == (6,)  # the base view and two tiles


def test_generation_goes_on_from_merged_tokens():
    model = model_of("Llava")
    inputs = batch(model, (3, "image", 5))
    with svdprune_ext.apply(model, KEEP, method="visionzip"):
        ids = model.generate(**inputs, max_new_tokens=3, do_sample=False)[:, -3:]
        beams = model.generate(**inputs, max_new_tokens=3, do_sample=False, num_beams=2)
    call = by_hand(model, inputs, "visionzip", "encoder")[1][0]
    assert ids[0, 0] == call[-1].argmax()
    assert beams.shape[1] == inputs["input_ids"].shape[1] + 3


@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        ("Llava", {"method": "pca"}, "method must be one of svd, ridge, "),
        (
            "Llava",
            {"options": {"seed": 1}},
            "options must be empty for method svd, got {'seed': 1}",
        ),
        ("Llava", {"method": "norm", "rank": 3}, "rank must be left out for method norm"),
        ("Llava", {"method": "norm", "coverage": 0.5}, "coverage must be left out for method norm"),
        ("Llava", {"method": "norm", "per": "tile"}, "scope must be per, 'tile', for norm"),
        ("PaliGemma", {"method": "cls_attention"}, "SiglipVisionModel has none"),
        ("InternVL", {"method": "visionzip"}, "which is not available for InternVLForCond"),
        ("Gemma3", {"method": "visionzip"}, "features must be 'projector' for visionzip, which"),
    ],
)
def test_what_does_not_fit_is_refused(family, options, message):
    with pytest.raises(ValueError, match="apply: .*" + re.escape(message)):
        svdprune_ext.apply(model_of(family), KEEP, **options)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("dart", {"pivot": 2}, "option must be one of pivots, got pivot"),
        ("dart", {"pivots": 0}, "pivots must be an int >= 1, got 0"),
        ("visionzip", {"merge": "sum"}, "merge must be one of average, add, got 'sum'"),
        ("uniform", {"grid": 4}, r"grid must be None or \(height, width\), got 4"),
        ("css", {"center": 1}, "center must be a bool, got 1"),
    ],
)
def test_options_of_the_method_are_checked_before_any_work(method, options, message):
    with pytest.raises(ValueError, match=f"{method}: {message}"):
        svdprune_ext.apply(model_of("Llava"), KEEP, method=method, options=options)


def test_other_features_than_the_config_s_are_refused_with_attention():
    model = model_of("Llava")
    inputs = batch(model, (1, "image", 2))
    with svdprune_ext.apply(model, KEEP, method="cls_attention"):
        with pytest.raises(ValueError, match=r"vision_feature_layer must be the config's .*\[-1\]"):
            logits_of(model, inputs, vision_feature_layer=-1)
        logits_of(model, inputs)
