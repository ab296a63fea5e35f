"""Pruning within the decoder on static caches, and what of compiled programs and masks is refused."""

import functools

import pytest
import torch
from test_in_decoder_oracle import METHODS, generate, holds, model_of
from tiny_configs import TINY
from tiny_vlms import batch

import svdprune_ext
from svdprune_ext import FastV

STATIC = {"cache_implementation": "static", "disable_compile": True}
ONE, TWO = ((3, "image", 9),), ((3, "image", 9), (2, "image", 3))
float64 = functools.partial(batch, dtype=torch.float64)


def static_cache(model):
    from transformers import StaticCache

    return StaticCache(config=model.config.get_text_config(), max_cache_len=64)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_padded_batch_whose_rows_drop_different_numbers(attention, name):
    dtype = torch.float64 if attention == "sdpa" else torch.float32
    model = model_of("LlavaNext", attention, dtype)
    inputs = batch(model, (1, "image", 2, "image", 4), (4, "image", 3), (6,), dtype=dtype)
    holds(model, inputs, METHODS[name][0], name, **STATIC)


@pytest.mark.parametrize("name", ["1.5", "fastv"])  # positions "compact" and "original"
def test_decoded_tokens_are_one_compiled_program(name):
    from torch._dynamo.utils import counters
    from transformers import CompileConfig

    torch._dynamo.reset()
    counters.clear()
    compiled = CompileConfig(backend="eager", fullgraph=True, mode=None)
    compiled._compile_all_devices = True  # transformers compiles on GPUs only, if not told so
    model = model_of("LlavaOnevision")  # its decoder takes masks by kind of layer
    options = {"cache_implementation": "static", "compile_config": compiled}
    holds(model, float64(model, *TWO), METHODS[name][0], name, **options)
    assert counters["stats"]["unique_graphs"] == 1
    torch._dynamo.reset()


def test_behind_svd_prune_beams_and_a_loop_written_by_hand():
    model = model_of("Llava")
    inputs = float64(model, *TWO)
    with svdprune_ext.apply(model, 6, then=FastV(2)), torch.no_grad():
        tokens, logits = generate(model, inputs)
        static_tokens, static_logits = generate(model, inputs, **STATIC)
        assert torch.equal(static_tokens, tokens)
        torch.testing.assert_close(static_logits, logits)
    with svdprune_ext.apply(model, **METHODS["1.5"][0]), torch.no_grad():
        beams = model.generate(**inputs, max_new_tokens=3, num_beams=3, do_sample=False)
        static = {"max_new_tokens": 3, "num_beams": 3, "do_sample": False, **STATIC}
        assert torch.equal(model.generate(**inputs, **static), beams)
        tokens, _ = generate(model, inputs)
        cache, mask = static_cache(model), inputs["attention_mask"]
        out = model(**inputs, past_key_values=cache)
        for token in tokens.unbind(1):
            assert torch.equal(out.logits[:, -1].argmax(-1), token)
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
            ids = token.unsqueeze(1)
            out = model(input_ids=ids, attention_mask=mask, past_key_values=cache)


def test_a_cache_can_be_reset_and_used_again():
    model = model_of("Llava")
    prompts = [float64(model, *ONE), float64(model, (7, "image", 2), seed=5), float64(model, (9,))]
    cache = static_cache(model)
    with svdprune_ext.apply(model, **METHODS["1.5"][0]):
        for inputs in prompts:
            logits = generate(model, inputs, past_key_values=cache, disable_compile=True)[1]
            torch.testing.assert_close(logits, generate(model, inputs)[1])
            cache.reset()


def test_a_full_cache_takes_one_token_at_a_time():
    model = model_of("Llava")
    with svdprune_ext.apply(model, **METHODS["1.5"][0]), torch.no_grad():
        cache = static_cache(model)
        model(**float64(model, *ONE), past_key_values=cache)
        with pytest.raises(ValueError, match="one token at a time, got 2"):
            model(input_ids=torch.tensor([[9, 11]]), past_key_values=cache)


def test_masks_of_causal_attention_are_taken_and_others_are_refused():
    model = model_of("Llava")
    inputs = float64(model, *TWO)
    seen = inputs["attention_mask"].bool()[:, None, None] & torch.ones(1, 1, 1, 1).bool()
    causal = seen & torch.ones(seen.shape[-1], seen.shape[-1], dtype=torch.bool).tril()
    causal = causal | torch.eye(seen.shape[-1], dtype=torch.bool)
    with svdprune_ext.apply(model, **METHODS["1.5"][0]), torch.no_grad():
        expected = model(**inputs).logits
        logits = model(**{**inputs, "attention_mask": causal}).logits
        real = inputs["attention_mask"].bool()
        torch.testing.assert_close(logits[real], expected[real])
        of_heads = causal.repeat(1, 2, 1, 1)
        of_heads[:, 1, 20, 19] = False
        with pytest.raises(ValueError, match="attention_mask must be None, "):
            model(**{**inputs, "attention_mask": of_heads})
        causal[:, :, 20, 22] = True
        with pytest.raises(ValueError, match="attention_mask must be None, "):
            model(**{**inputs, "attention_mask": causal})


def test_static_caches_with_flash_attention_are_refused(monkeypatch):
    model = model_of("Llava")
    cache = static_cache(model)
    with svdprune_ext.apply(model, **METHODS["1.5"][0]):
        # As flash attention would say; no kernel of it is needed to be refused.
        config = model.get_decoder().config
        monkeypatch.setattr(config, "_attn_implementation_internal", "flash_attention_2")
        with pytest.raises(ValueError, match=r"must be one that grows .* got StaticCache"):
            model(**float64(model, *ONE), past_key_values=cache)
    assert cache.get_seq_length() == 0


def test_programs_and_checkpoints_are_refused():
    model = TINY["LlavaForConditionalGeneration"].build()
    inputs = batch(model, *ONE)
    arguments = {"method": "fastv", "keep": 4, "options": {"layer": 1}}
    with svdprune_ext.apply(model, **arguments):
        torch._dynamo.reset()
        with (
            pytest.raises(
                torch._dynamo.exc.TorchDynamoException, match="fastv drops vision tokens"
            ),
            torch.no_grad(),
        ):
            torch.compile(model, fullgraph=True, backend="eager")(**inputs)
        model.train().get_decoder().gradient_checkpointing = True
        with pytest.raises(ValueError, match="does not go with gradient checkpointing"):
            model(**inputs)
        model.eval()(**inputs)  # where no layer is run again
