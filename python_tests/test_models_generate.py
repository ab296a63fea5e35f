"""generate() and caches of a pruned LLaVA: what the cache holds, and what of it is refused.

The ways to generate are in ``ways.py``.
"""

import copy

import pytest
import torch
from by_hand import RANK, greedy_by_hand
from tiny_configs import TINY
from tiny_vlms import batch

import svdprune_ext

NEW = 6


@pytest.fixture(scope="module")
def model():
    return TINY["LlavaForConditionalGeneration"].build()


def generated(model, inputs, **options):
    ids = model.generate(**inputs, max_new_tokens=NEW, **{"do_sample": False, **options})
    return ids[:, inputs["input_ids"].shape[1] :]


def test_eager_attention():
    model = TINY["LlavaForConditionalGeneration"].build("eager")
    inputs = batch(model, (3, "image", 9), (2, "image", 3))
    expected = greedy_by_hand(model, inputs, 5, NEW)
    with svdprune_ext.apply(model, keep=5, rank=RANK):
        assert torch.equal(generated(model, inputs), expected)


def test_the_cache_holds_kept_tokens_only(model):
    inputs = batch(model, (3, "image", 5))
    with svdprune_ext.apply(model, keep=5):
        out = model.generate(
            **inputs, max_new_tokens=NEW, do_sample=False, return_dict_in_generate=True
        )
    # Begin-of-sequence, 3 + 5 text tokens, 2 marks around 5 of 16 vision tokens; the last new token is
    # not cached.
    assert out.past_key_values.get_seq_length() == 1 + 3 + 5 + 2 + 5 + NEW - 1


def test_generate_is_unchanged_after_remove(model):
    inputs = batch(model, (3, "image", 9), (2, "image", 3))
    expected = generated(model, inputs)
    with svdprune_ext.apply(model, keep=5):
        generated(model, inputs)
    assert torch.equal(generated(model, inputs), expected)


def test_a_static_cache_can_be_reset_and_used_again(model):
    from transformers import StaticCache

    inputs, other = batch(model, (3, "image", 5)), batch(model, (7, "image", 2), seed=5)
    text, options = batch(model, (9,)), {"disable_compile": True}
    cache = StaticCache(config=model.config.get_text_config(), max_cache_len=64)
    with svdprune_ext.apply(model, keep=5):
        first = generated(model, inputs, past_key_values=cache, **options)
        cache.reset()
        second = generated(model, other, past_key_values=cache, **options)
        assert torch.equal(first, generated(model, inputs))
        assert torch.equal(second, generated(model, other))
        cache.reset()
        third = generated(model, text, past_key_values=cache, **options)
        assert torch.equal(third, generated(model, text))


def test_a_copied_cache_goes_its_own_way(model):
    inputs = batch(model, (3, "image", 5))
    with svdprune_ext.apply(model, keep=5), torch.no_grad():
        cache = model(**inputs, use_cache=True).past_key_values
        ones = inputs["attention_mask"].new_ones(1, inputs["input_ids"].shape[1] + 2)
        both = {"input_ids": torch.tensor([[9, 11]]), "attention_mask": ones}
        first = model(**both, past_key_values=copy.deepcopy(cache)).logits
        assert torch.equal(model(**both, past_key_values=copy.deepcopy(cache)).logits, first)


@pytest.mark.parametrize("positions", ["compact", "original"])
def test_positions_that_begin_at_one_go_on_with_or_without_ids(positions):
    model = TINY["PaliGemmaForConditionalGeneration"].build()
    inputs = batch(model, (3, "image", 5))
    more, seen = torch.tensor([[7, 8]]), inputs["input_ids"].shape[1]
    ids = torch.tensor([[seen + 1, seen + 2]])  # PaliGemma's first position is 1
    with svdprune_ext.apply(model, keep=5, positions=positions), torch.no_grad():
        cache = model(**inputs, use_cache=True).past_key_values
        for new in (1, 2):
            own, given = (
                model(input_ids=more[:, :new], past_key_values=copy.deepcopy(cache), **options)
                for options in ({}, {"position_ids": ids[:, :new]})
            )
            torch.testing.assert_close(own.logits, given.logits)


def test_a_mask_that_skips_positions_is_refused(model):
    inputs = batch(model, (3, "image", 5))
    with svdprune_ext.apply(model, keep=5) as handle, torch.no_grad():
        out = model(**inputs, use_cache=True)
        short = torch.ones(1, out.past_key_values.get_seq_length() + 1, dtype=torch.long)
        with pytest.raises(ValueError, match="must cover the 27 positions"):
            model(
                input_ids=torch.tensor([[9]]),
                attention_mask=short,
                past_key_values=out.past_key_values,
            )
        # As many new tokens as were dropped, and a mask that ends before them: none would be left.
        seen, dropped = inputs["input_ids"].shape[1], handle.last.num_tokens[0] - 5
        with pytest.raises(ValueError, match=f"must cover the {seen} positions"):
            model(
                input_ids=torch.full((1, dropped), 9),
                attention_mask=torch.ones(1, seen, dtype=torch.long),
                past_key_values=out.past_key_values,
            )


def test_a_cache_cropped_into_the_prompt_is_refused(model):
    inputs = batch(model, (3, "image", 5))
    with svdprune_ext.apply(model, keep=5), torch.no_grad():
        cache = model(**inputs, use_cache=True).past_key_values
        cache.crop(-12)
        with pytest.raises(ValueError, match="before the last dropped token"):
            model(
                input_ids=torch.tensor([[9]]),
                attention_mask=torch.ones(1, 16, dtype=torch.long),
                past_key_values=cache,
            )
