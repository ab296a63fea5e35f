"""Pruning within the decoder keeps the oracle's tokens, and computes its logits."""

import copy
import dataclasses
import functools

import pytest
import torch
import transformers
from by_hand import decoder_inputs
from sparse_oracle import Rules, prune_by_hand
from tiny_configs import TINY, text
from tiny_vlms import IMAGE, batch, builder

import svdprune_ext
from svdprune_ext.in_decoder import counts

NEW = 3
FAMILIES = ("Llava", "VipLlava", "LlavaNext", "LlavaOnevision", "InternVL", "Mistral3")
CUTS = (1, 2)
LAYERS = {"layers": CUTS}
METHODS = {
    "1.5": (
        {"method": "sparsevlm", "tokens": (9, 5), "options": LAYERS},
        Rules({1: 9, 2: 5}),
    ),
    "2.0": (
        {"method": "sparsevlm", "tokens": (9, 5), "version": "2.0", "options": LAYERS},
        Rules({1: 9, 2: 5}, plus=True, recycles=False, original=True),
    ),
    "fastv": (
        {"method": "fastv", "keep": 6},
        Rules({1: 6}, recycles=False, original=True, last_token=True),
    ),
    "pyramiddrop": (
        {"method": "pyramiddrop", "options": LAYERS},
        Rules({1: None, 2: None}, recycles=False, last_token=True),
    ),
}


@functools.cache
def model_of(family, attention="sdpa", dtype=torch.float64):
    """Four layers, so that one runs behind the last cut; float64, so that rounding decides nothing."""
    name = f"{family}ForConditionalGeneration"
    config = copy.deepcopy(TINY[name].build().config)
    config.text_config.num_hidden_layers = 4
    if getattr(config.text_config, "layer_types", None):
        config.text_config.layer_types = ["full_attention"] * 4
    return builder(lambda: config, name)(attention, dtype)


def rules_for(name, tokens):
    rules = METHODS[name][1]
    if name == "pyramiddrop":
        rules = dataclasses.replace(rules, cuts={1: tokens // 2, 2: tokens // 4})
    return rules


@torch.no_grad()
def oracle(model, inputs, row, name, new=NEW):
    call = decoder_inputs(model, inputs)
    real = inputs["attention_mask"][row].bool()
    vision = (inputs["input_ids"][row] == IMAGE)[real]
    rules = rules_for(name, int(vision.sum())) if isinstance(name, str) else name
    return prune_by_hand(model, call["inputs_embeds"][row][real], vision, rules, new)


def generate(model, inputs, **options):
    out = model.generate(
        **inputs,
        max_new_tokens=NEW,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
        **options,
    )
    return out.sequences[:, -NEW:], torch.stack(out.logits, 1)


def holds(model, inputs, arguments, name, **options):
    unpruned = generate(model, inputs)[1]
    with svdprune_ext.apply(model, **arguments) as handle:
        tokens, logits = generate(model, inputs, **options)
        last = handle.last.decoder
    for row in range(len(tokens)):
        if not (inputs["input_ids"][row] == IMAGE).any():
            torch.testing.assert_close(logits[row], unpruned[row], atol=1e-4, rtol=1e-5)
            continue
        expected = oracle(model, inputs, row, name)
        assert [stage[row].tolist() for stage in last.kept] == expected.kept
        assert [layer[row] for layer in last.num_tokens] == expected.counts
        assert last.average[row] == sum(expected.counts) / len(expected.counts)
        assert tokens[row].tolist() == expected.tokens
        by_hand = torch.stack(expected.logits[:-1]).float()  # generate's are float32
        torch.testing.assert_close(logits[row], by_hand, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("family", FAMILIES)
def test_one_prompt(family, name):
    model = model_of(family)
    inputs = batch(model, (3, "image", 9), dtype=torch.float64)
    holds(model, inputs, METHODS[name][0], name)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_padded_batch_whose_rows_drop_different_numbers(attention, name):
    # Eager attention has a softmax in float32, where float64's mask is -inf and padded queries become NaN.
    dtype = torch.float64 if attention == "sdpa" else torch.float32
    model = model_of("LlavaNext", attention, dtype)
    inputs = batch(model, (1, "image", 2, "image", 4), (4, "image", 3), (6,), dtype=dtype)
    holds(model, inputs, METHODS[name][0], name)


@pytest.mark.parametrize("seed", range(4))
def test_counts_by_rank(monkeypatch, seed):
    monkeypatch.setitem(counts.RANK_SCALE_AND_BIAS, 64, (2.0, 1.0))
    monkeypatch.setitem(counts.RANK_SCALE_AND_BIAS, 128, (1.0, 1.0))
    tokens, scale = ((64, 2.0), (128, 1.0))[seed % 2]
    model = model_of("Llava")
    inputs = batch(model, (3, "image", 9), (1, "image", 3), dtype=torch.float64, seed=seed)
    rules = Rules(dict.fromkeys(CUTS), scale=scale, bias=1.0)
    arguments = {"method": "sparsevlm", "tokens": tokens, "version": "1.0", "options": LAYERS}
    holds(model, inputs, arguments, rules)


def test_more_than_one_cluster():
    """An image of 64 tokens recycles 16 of 50, into two."""
    name = "LlavaForConditionalGeneration"
    config = copy.deepcopy(model_of("Llava").config)
    config.vision_config.image_size, config.image_seq_length = 56, 64
    model = builder(lambda: config, name)("sdpa", torch.float64)
    ids = torch.tensor([[1, 5, 9, 11, *[IMAGE] * 64, *range(20, 33)]])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    inputs["pixel_values"] = torch.randn(1, 3, 56, 56, dtype=torch.float64)
    arguments = {"method": "sparsevlm", "tokens": (14, 4), "options": LAYERS}
    holds(model, inputs, arguments, Rules({1: 14, 2: 4}))


def test_qwen3_decoders():
    name = "InternVLForConditionalGeneration"
    config = copy.deepcopy(TINY[name].build().config)
    config.text_config = text(transformers.Qwen3Config, num_hidden_layers=4, head_dim=12)
    model = builder(lambda: config, name)("sdpa", torch.float64)
    inputs = batch(model, (3, "image", 9), dtype=torch.float64)
    holds(model, inputs, METHODS["1.5"][0], "1.5")
