"""generate() on a pruned LLaVA equals greedy decoding by hand, without any cache."""

import pytest
import torch
from by_hand import greedy_by_hand
from tiny_llava import IMAGE_TOKEN, batch, prompt, tiny_llava

import svdprune_ext

NEW = 6
PROMPTS = {
    "one": (prompt(3, "image", 5),),
    "unequal": (prompt(3, "image", 9), prompt(2, "image", 3)),
    "two images and none": (prompt(1, "image", 2, "image", 4), prompt(6)),
}


@pytest.fixture(scope="module")
def model():
    return tiny_llava()


def generated(model, inputs, **options):
    ids = model.generate(**inputs, max_new_tokens=NEW, **{"do_sample": False, **options})
    return ids[:, inputs["input_ids"].shape[1] :]


@pytest.mark.parametrize("positions", ["compact", "original"])
@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("name", PROMPTS)
def test_greedy_equals_decoding_by_hand(model, name, use_cache, positions):
    inputs = batch(*PROMPTS[name])
    expected = greedy_by_hand(model, inputs, 5, NEW, positions)
    with svdprune_ext.apply(model, keep=5, positions=positions):
        assert torch.equal(generated(model, inputs, use_cache=use_cache), expected)


def test_eager_attention():
    model = tiny_llava("eager")
    inputs = batch(*PROMPTS["unequal"])
    expected = greedy_by_hand(model, inputs, 5, NEW)
    with svdprune_ext.apply(model, keep=5):
        assert torch.equal(generated(model, inputs), expected)


def test_the_cache_holds_kept_tokens_only(model):
    inputs = batch(prompt(3, "image", 5))
    with svdprune_ext.apply(model, keep=5):
        out = model.generate(
            **inputs, max_new_tokens=NEW, do_sample=False, return_dict_in_generate=True
        )
    # Begin-of-sequence, 3 + 5 text tokens, 5 of 16 vision tokens; the last new token is not cached.
    assert out.past_key_values.get_seq_length() == 1 + 3 + 5 + 5 + NEW - 1


@pytest.mark.parametrize("name", ["one", "unequal"])
def test_beams_with_and_without_a_cache_agree(model, name):
    inputs = batch(*PROMPTS[name])
    with svdprune_ext.apply(model, keep=5):
        cached = generated(model, inputs, num_beams=3)
        assert torch.equal(cached, generated(model, inputs, num_beams=3, use_cache=False))


def test_sampling_draws_from_the_pruned_models_distribution(model):
    inputs = batch(prompt(3, "image", 5))
    options = {"do_sample": True, "suppress_tokens": [IMAGE_TOKEN]}
    with svdprune_ext.apply(model, keep=5):
        torch.manual_seed(3)
        cached = generated(model, inputs, **options)
        torch.manual_seed(3)
        assert torch.equal(cached, generated(model, inputs, use_cache=False, **options))


@pytest.mark.parametrize("options", [{"prompt_lookup_num_tokens": 3}, {"prefill_chunk_size": 7}])
def test_prompt_lookup_and_chunked_prefill(model, options):
    inputs = batch(prompt(3, "image", 9))
    if not torch.equal(generated(model, inputs), generated(model, inputs, **options)):
        pytest.skip("this version of transformers loses the image here, unpatched too")
    expected = greedy_by_hand(model, inputs, 5, NEW)
    with svdprune_ext.apply(model, keep=5):
        assert torch.equal(generated(model, inputs, **options), expected)


def test_generate_is_unchanged_after_remove(model):
    inputs = batch(*PROMPTS["unequal"])
    expected = generated(model, inputs)
    with svdprune_ext.apply(model, keep=5):
        generated(model, inputs)
    assert torch.equal(generated(model, inputs), expected)


@pytest.mark.parametrize("positions", ["compact", "original"])
def test_second_turn_on_a_kept_cache(model, positions):
    first = batch(*PROMPTS["unequal"])
    with svdprune_ext.apply(model, keep=5, positions=positions):
        turn = model.generate(
            **first, max_new_tokens=NEW, do_sample=False, return_dict_in_generate=True
        )
        question = torch.tensor([[33, 34, 35], [36, 37, 38]])
        ids = torch.cat([turn.sequences, question], 1)
        ones = torch.ones(2, NEW + 3, dtype=torch.long)
        mask = torch.cat([first["attention_mask"], ones], 1)
        whole = {**first, "input_ids": ids, "attention_mask": mask}
        second = model.generate(
            input_ids=ids,
            attention_mask=mask,
            past_key_values=turn.past_key_values,
            max_new_tokens=NEW,
            do_sample=False,
        )[:, ids.shape[1] :]
    assert torch.equal(second, greedy_by_hand(model, whole, 5, NEW, positions))


def test_hand_written_decoding_loop(model):
    inputs = batch(*PROMPTS["unequal"])
    expected = greedy_by_hand(model, inputs, 5, NEW)
    mask, tokens = inputs["attention_mask"], []
    with svdprune_ext.apply(model, keep=5), torch.no_grad():
        out = model(**inputs, use_cache=True)
        for _ in range(NEW):
            tokens.append(out.logits[:, -1].argmax(-1, keepdim=True))
            mask = torch.cat([mask, mask.new_ones(2, 1)], 1)
            out = model(
                input_ids=tokens[-1], attention_mask=mask, past_key_values=out.past_key_values
            )
    assert torch.equal(torch.cat(tokens, 1), expected)


def test_a_static_cache_is_refused(model):
    with (
        svdprune_ext.apply(model, keep=5),
        pytest.raises(ValueError, match="static cache"),
    ):
        generated(model, batch(prompt(3, "image", 5)), cache_implementation="static")


def test_a_mask_that_skips_positions_is_refused(model):
    inputs = batch(prompt(3, "image", 5))
    with svdprune_ext.apply(model, keep=5), torch.no_grad():
        out = model(**inputs, use_cache=True)
        short = torch.ones(1, out.past_key_values.get_seq_length() + 1, dtype=torch.long)
        with pytest.raises(ValueError, match="attention_mask must cover the 25 positions"):
            model(
                input_ids=torch.tensor([[9]]),
                attention_mask=short,
                past_key_values=out.past_key_values,
            )


def test_a_cache_cropped_into_the_prompt_is_refused(model):
    inputs = batch(prompt(3, "image", 5))
    with svdprune_ext.apply(model, keep=5), torch.no_grad():
        cache = model(**inputs, use_cache=True).past_key_values
        cache.crop(-8)
        with pytest.raises(ValueError, match="cropped"):
            model(
                input_ids=torch.tensor([[9]]),
                attention_mask=torch.ones(1, 26, dtype=torch.long),
                past_key_values=cache,
            )
