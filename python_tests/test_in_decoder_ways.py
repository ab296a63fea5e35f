"""Ways to run a model that drops vision tokens within its decoder."""

import copy
import functools
import re

import pytest
import torch
from test_in_decoder_oracle import METHODS, generate, model_of, oracle
from tiny_configs import TINY
from tiny_vlms import IMAGE, batch
from ways import followed_by

import svdprune_ext
from svdprune_ext import FastV, PyramidDrop, SparseVLM

CUTS = (1, 2)
ALL = {"method": "sparsevlm", "tokens": (1.0, 1.0), "options": {"layers": CUTS}}
ONE, TWO = ((3, "image", 9),), ((3, "image", 9), (2, "image", 3))
float64 = functools.partial(batch, dtype=torch.float64)


def logits_of(model, inputs, **options):
    with torch.no_grad():
        return model(**inputs, **options).logits


@pytest.mark.parametrize("family", ["Llava", "LlavaOnevision", "Mistral3"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_keeping_all_changes_no_bit(family, attention):
    model = model_of(family, attention, torch.float32)
    inputs = batch(model, *TWO)
    expected, ids = logits_of(model, inputs), generate(model, inputs)[0]
    for arguments in (ALL, {"method": "fastv", "keep": 4000}):
        with svdprune_ext.apply(model, **arguments) as handle:
            assert torch.equal(logits_of(model, inputs), expected)
            assert torch.equal(generate(model, inputs)[0], ids)
            assert set(handle.last.decoder.num_tokens) == {handle.last.decoder.num_tokens[0]}
    assert torch.equal(logits_of(model, inputs), expected)


@pytest.mark.parametrize("name", METHODS)
def test_removing_it_leaves_nothing_behind(name):
    model = model_of("Llava")
    inputs = float64(model, *ONE)
    expected = logits_of(model, inputs)  # transformers itself leaves hooks at the first call

    def hooks():
        return [(list(m._forward_hooks), list(m._forward_pre_hooks)) for m in model.modules()]

    configs, before = [layer.self_attn.config for layer in model.get_decoder().layers], hooks()
    with svdprune_ext.apply(model, **METHODS[name][0]):
        assert not torch.equal(logits_of(model, inputs), expected)
    assert torch.equal(logits_of(model, inputs), expected)
    now = [layer.self_attn.config for layer in model.get_decoder().layers]
    assert all(a is b for a, b in zip(configs, now, strict=True))
    assert hooks() == before


@pytest.mark.parametrize("name", METHODS)
def test_a_dropped_token_repeats_the_row_before_it(name):
    model = model_of("Llava")
    inputs = float64(model, *TWO)
    with svdprune_ext.apply(model, **METHODS[name][0]) as handle:
        logits = logits_of(model, inputs)
        kept = handle.last.decoder.kept[-1]
    assert logits.shape[1] == inputs["input_ids"].shape[1]
    for row, ids in enumerate(inputs["input_ids"]):
        first = int((ids == IMAGE).int().argmax())
        expected = oracle(model, inputs, row, name, 0).logits[0]
        torch.testing.assert_close(logits[row, -1], expected, atol=1e-5, rtol=1e-5)
        for token in range(1, 16):
            same = torch.equal(logits[row, first + token], logits[row, first + token - 1])
            assert same == (token not in kept[row].tolist())


@pytest.mark.parametrize("name", METHODS)
def test_sixteen_bits(name):
    model = model_of("Llava", "sdpa", torch.bfloat16)
    inputs = batch(model, *TWO, dtype=torch.bfloat16)
    with svdprune_ext.apply(model, **METHODS[name][0]) as handle:
        assert logits_of(model, inputs).isfinite().all()
        generate(model, inputs)
        assert handle.last.decoder.num_tokens[-1][0] < 16


@pytest.mark.parametrize("name", METHODS)
def test_padding_on_the_right(name):
    model = model_of("Llava")
    inputs = float64(model, *TWO, (4,), padding="right")
    with svdprune_ext.apply(model, **METHODS[name][0]):
        logits = logits_of(model, inputs)
    for row in (0, 1):
        last = int(inputs["attention_mask"][row].sum()) - 1
        expected = oracle(model, inputs, row, name, 0).logits[0]
        torch.testing.assert_close(logits[row, last], expected, atol=1e-5, rtol=1e-5)


def test_text_alone_is_left_alone():
    model = model_of("Llava", "sdpa", torch.float32)
    inputs = batch(model, (9,), (4,))
    expected, ids = logits_of(model, inputs), generate(model, inputs)[0]
    with svdprune_ext.apply(model, **METHODS["1.5"][0]) as handle:
        assert torch.equal(logits_of(model, inputs), expected)
        assert torch.equal(generate(model, inputs)[0], ids)
        assert handle.last is None


@pytest.mark.parametrize("name", METHODS)
def test_without_a_mask_and_with_embeddings(name):
    model = model_of("Llava")
    inputs = float64(model, *ONE)
    embeds = model.get_input_embeddings()(inputs["input_ids"]).detach()
    with svdprune_ext.apply(model, **METHODS[name][0]), torch.no_grad():
        expected = model(**inputs).logits
        del inputs["attention_mask"]
        torch.testing.assert_close(model(**inputs).logits, expected)
        del inputs["input_ids"]
        torch.testing.assert_close(model(inputs_embeds=embeds, **inputs).logits, expected)


@pytest.mark.parametrize("name", METHODS)
def test_a_loop_written_by_hand_and_assisted_decoding(name):
    model = model_of("Llava")
    inputs = float64(model, *ONE)
    expected = oracle(model, inputs, 0, name)
    with svdprune_ext.apply(model, **METHODS[name][0]), torch.no_grad():
        out = model(**inputs, use_cache=True)
        for token in expected.tokens:
            assert int(out.logits[0, -1].argmax()) == token
            ids = torch.tensor([[token]])
            out = model(input_ids=ids, past_key_values=out.past_key_values)
        lookup = generate(model, inputs, prompt_lookup_num_tokens=3)[0]
    assert lookup[0].tolist() == expected.tokens


@pytest.mark.parametrize("name", METHODS)
def test_beams_and_samples_go_on_from_the_cut_cache(name):
    model = model_of("Llava")
    inputs = float64(model, *TWO)
    with svdprune_ext.apply(model, **METHODS[name][0]), torch.no_grad():
        out = model.generate(
            **inputs,
            max_new_tokens=3,
            num_beams=3,
            do_sample=False,
            return_dict_in_generate=True,
            output_scores=True,
        )
        beams = out.sequences[:, -3:]
        torch.manual_seed(0)
        sampled = model.generate(**inputs, max_new_tokens=3, do_sample=True)
        # What beam search says of its best beam must be what the cut model says of these tokens.
        for row in range(len(beams)):
            single = {k: v[row : row + 1] for k, v in inputs.items()}
            now, total = model(**single, use_cache=True), 0.0
            for token in beams[row]:
                total += float(now.logits[0, -1].log_softmax(-1)[token])
                cache = now.past_key_values
                mask = single["attention_mask"]
                single["attention_mask"] = torch.cat([mask, mask.new_ones(1, 1)], 1)
                now = model(
                    input_ids=token.view(1, 1),
                    attention_mask=single["attention_mask"],
                    past_key_values=cache,
                )
            assert abs(total / 3 - float(out.sequences_scores[row])) < 1e-4
    assert sampled.shape == out.sequences.shape


def test_the_cache_of_a_batch_is_cropped_within_its_shortest_text():
    model = model_of("Llava")
    inputs = float64(model, *TWO, (7,))  # 10 and 4 tokens behind the image, and a row without one
    with svdprune_ext.apply(model, **METHODS["1.5"][0]), torch.no_grad():
        first = model(**inputs, use_cache=True)
        cache, last = first.past_key_values, inputs["input_ids"][:, -4:]
        model(last[:, :1], past_key_values=cache)
        for cropped in (5, 4):  # the text and what followed it, and the text again
            cache.crop(-cropped)
            again = model(last, attention_mask=inputs["attention_mask"], past_key_values=cache)
            torch.testing.assert_close(again.logits, first.logits[:, -4:])
        cache.crop(-5)
        with pytest.raises(ValueError, match="5 slots were cropped, of which 4 are text"):
            model(last, past_key_values=cache)


def test_a_padded_turn_of_text_before_the_image():
    model = model_of("Llava")
    inputs = float64(model, (12, "image", 9), (6, "image", 9))
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    one = torch.cat([mask, mask.new_ones(2, 1)], 1)
    with svdprune_ext.apply(model, **METHODS["1.5"][0]), torch.no_grad():
        whole = model(**inputs, use_cache=True).past_key_values
        parts = model(ids[:, :9], attention_mask=mask[:, :9], use_cache=True).past_key_values
        model(**{**inputs, "input_ids": ids[:, 9:]}, past_key_values=parts)
        expected, logits = (
            model(ids[:, -1:], attention_mask=one, past_key_values=cache).logits
            for cache in (whole, parts)
        )
    torch.testing.assert_close(logits, expected)


@pytest.mark.parametrize("name", METHODS)
def test_a_next_turn_on_the_kept_cache(name):
    """Equals the same ids, fed one by one to the cache."""
    model = model_of("Llava")
    for prompts in (ONE, TWO):
        inputs = float64(model, *prompts)
        question = torch.tensor([[33, 34, 35], [36, 37, 38]])[: len(prompts)]
        with svdprune_ext.apply(model, **METHODS[name][0]), torch.no_grad():
            options = {"do_sample": False, "return_dict_in_generate": True}
            turn = model.generate(**inputs, max_new_tokens=3, **options)
            ids = torch.cat([turn.sequences, question], 1)
            text = followed_by(model, inputs, ids)
            second = generate(model, text, past_key_values=turn.past_key_values)[1]
            cache = model(**inputs, use_cache=True).past_key_values
            seen = inputs["input_ids"].shape[1]
            for place in range(seen, ids.shape[1]):
                out = model(
                    input_ids=ids[:, place : place + 1],
                    attention_mask=text["attention_mask"][:, : place + 1],
                    past_key_values=cache,
                )
        torch.testing.assert_close(second[:, 0], out.logits[:, -1].float(), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_an_image_in_a_later_turn(name):
    """The layers' caches hold each turn's own tokens; the first turn's image stays as it was cut."""
    model = model_of("Llava")
    first, second = float64(model, *ONE), float64(model, (2, "image", 6), seed=5)
    with svdprune_ext.apply(model, **METHODS[name][0]) as handle, torch.no_grad():
        cache = model(**first, use_cache=True).past_key_values
        before = [layer.get_seq_length() for layer in cache.layers]
        of_first = handle.last.decoder.num_tokens
        model(
            input_ids=second["input_ids"],
            pixel_values=second["pixel_values"],
            past_key_values=cache,
        )
        after = [layer.get_seq_length() for layer in cache.layers]
        of_second = handle.last.decoder.num_tokens
    text = second["input_ids"].shape[1] - 16
    assert of_second == of_first
    new = [b - a for a, b in zip(before, after, strict=True)]
    assert new == [text + layer[0] for layer in of_second]


@pytest.mark.parametrize("then", [SparseVLM((3, 2), layers=CUTS), FastV(2), PyramidDrop()])
def test_behind_svd_prune(then):
    model = model_of("Llava")
    inputs = float64(model, *TWO)
    with svdprune_ext.apply(model, 6, then=then) as handle:
        logits = logits_of(model, inputs)
        last = handle.last
        generate(model, inputs)
    assert last.num_kept == (6, 6)
    assert last.decoder.num_tokens[0] == (6, 6)
    assert last.decoder.num_tokens[-1][0] < 6
    assert logits.shape[1] == inputs["input_ids"].shape[1]


def test_behind_svd_prune_in_a_batch_whose_longest_row_is_text():
    model = model_of("Llava")
    inputs = float64(model, (3, "image", 9), (30,))
    with svdprune_ext.apply(model, 4, then=FastV(0.5)) as handle:
        tokens = generate(model, inputs)[0]
        assert handle.last.decoder.num_tokens[0] == (4, 0)
        assert handle.last.decoder.num_tokens[-1] == (2, 0)
        alone = generate(model, float64(model, (3, "image", 9)))[0]
    assert torch.equal(tokens[:1], alone)


def test_a_row_that_loses_nothing_keeps_the_gaps_in_its_position_ids():
    model = model_of("Llava")
    inputs = float64(model, (3, "image", 4), (1, "image", 2, "image", 4))
    real = inputs["attention_mask"][0].bool()
    alone = {"input_ids": inputs["input_ids"][:1, real], "pixel_values": inputs["pixel_values"][:1]}
    then = SparseVLM((12,), layers=(1,))  # of 8 tokens and of 16
    with svdprune_ext.apply(model, 8, positions="original", then=then) as handle:
        expected = generate(model, alone)[1]
        logits = generate(model, inputs)[1][:1]
        assert handle.last.decoder.num_tokens[-1] == (8, 13)
    torch.testing.assert_close(logits, expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", METHODS)
def test_padding_within_a_next_turn_is_not_seen(name):
    model = model_of("Llava")
    inputs = float64(model, *TWO)
    ids = torch.tensor([[33, 34], [35, 36]])
    mask = torch.cat([inputs["attention_mask"], torch.tensor([[1, 1], [0, 1]])], 1)
    last = torch.cat([mask, mask.new_ones(2, 1)], 1)
    results = []
    with svdprune_ext.apply(model, **METHODS[name][0]), torch.no_grad():
        for padding in (40, 41):
            ids[1, 0] = padding
            cache = model(**inputs, use_cache=True).past_key_values
            model(ids, attention_mask=mask, past_key_values=cache)
            results.append(model(ids[:, 1:], attention_mask=last, past_key_values=cache).logits)
    torch.testing.assert_close(*results)


def test_behind_svd_prune_it_equals_the_oracle_on_what_that_left():
    model = model_of("Llava")
    inputs = float64(model, *ONE)
    with svdprune_ext.apply(model, 8, then=SparseVLM((5, 2), layers=CUTS)) as handle:
        tokens, _ = generate(model, inputs)
        kept, last = handle.last.indices[0], handle.last.decoder
    call = model_of("Llava").base_model
    embeds = call.get_input_embeddings()(inputs["input_ids"])
    is_image = inputs["input_ids"] == IMAGE
    with torch.no_grad():
        rows = call.get_image_features(inputs["pixel_values"]).pooler_output[0]
    embeds = embeds.masked_scatter(is_image.unsqueeze(-1), rows)[0]
    places = is_image[0].nonzero().flatten()
    stays = ~is_image[0]
    stays[places[kept]] = True
    from sparse_oracle import Rules, prune_by_hand

    expected = prune_by_hand(model, embeds[stays], is_image[0][stays], Rules({1: 5, 2: 2}), 3)
    assert [stage[0].tolist() for stage in last.kept] == expected.kept
    assert tokens[0].tolist() == expected.tokens


def test_gradients_reach_the_projector_through_kept_and_merged_tokens():
    model = TINY["LlavaForConditionalGeneration"].build()
    inputs = batch(model, *TWO)
    arguments = {"method": "sparsevlm", "tokens": (4,), "options": {"layers": (0,)}}
    with svdprune_ext.apply(model, **arguments):
        labels = inputs["input_ids"].masked_fill(inputs["input_ids"] == IMAGE, -100)
        model(**inputs, labels=labels, use_cache=False).loss.backward()
    gradients = [p.grad for p in model.model.multi_modal_projector.parameters()]
    assert all(g.isfinite().all() and g.abs().max() > 0 for g in gradients)


@pytest.mark.parametrize(
    ("family", "arguments", "message"),
    [
        ("Llava", {"method": "sparsevlm"}, "tokens must be given for method sparsevlm"),
        (
            "Llava",
            {"method": "sparsevlm", "tokens": 100},
            "tokens must be one of 192, 128, 96, 64,",
        ),
        (
            "Llava",
            {"method": "sparsevlm", "tokens": (5, 4)},
            "a schedule of 3 numbers where layers",
        ),
        (
            "Llava",
            {"method": "sparsevlm", "tokens": 64.0},
            "tokens must be a schedule of ints >= 1",
        ),
        ("Llava", {"method": "sparsevlm", "tokens": 96, "version": "1.0"}, "one of 192, 128, 64,"),
        ("Llava", {"method": "sparsevlm", "tokens": 64, "version": "3"}, "version must be one of"),
        ("Llava", {"method": "sparsevlm", "tokens": 64, "keep": 5}, "keep must be left out"),
        ("Llava", {"method": "sparsevlm", "tokens": 64, "rank": 5}, "rank must be left out"),
        ("Llava", {"method": "fastv", "tokens": 64}, "tokens must be left out for method fastv"),
        (
            "Llava",
            {"method": "fastv", "options": {"layer": 9}},
            "must be at most 2 in a decoder of 4",
        ),
        ("Llava", {"method": "fastv", "options": {"layer": 0}}, "layer must be an int >= 1"),
        ("Llava", {"method": "fastv", "options": {"depth": 2}}, "option must be one of layer, got"),
        ("Llava", {"method": "pyramiddrop", "options": {"ratio": 2}}, "ratio must be a float in"),
        ("Llava", {"method": "pyramiddrop", "options": {"layers": 2}}, "layers must be ascending"),
        (
            "Llava",
            {"method": "pyramiddrop", "options": {"layers": (1, 1)}},
            "layers must be ascending",
        ),
        ("Llava", {"method": "sparse"}, "fastv, sparsevlm, pyramiddrop, got 'sparse'"),
        ("Llava", {"tokens": 64}, "tokens must be left out for method svd"),
        ("Llava", {"then": "fastv"}, "then must be None, SparseVLM, FastV or PyramidDrop, got str"),
        ("PaliGemma", {"method": "fastv"}, "model must be one of LlavaForConditionalGeneration, "),
        ("Qwen2VL", {"then": FastV(4)}, "model must be one of LlavaForConditionalGeneration, "),
    ],
)
def test_what_does_not_fit_is_refused(family, arguments, message):
    is_own = family == "Llava"
    model = model_of(family) if is_own else TINY[f"{family}ForConditionalGeneration"].build()
    with pytest.raises(ValueError, match=re.escape(message)):
        svdprune_ext.apply(model, **arguments)
    assert not model.base_model._forward_pre_hooks


def test_what_does_not_work_is_refused_when_it_is_tried():
    model = model_of("Llava")
    inputs = float64(model, *ONE)
    length = inputs["input_ids"].shape[1]
    with svdprune_ext.apply(model, **METHODS["1.5"][0]):
        for piece in (7, length - 4):  # through the image, through the text
            with pytest.raises(ValueError, match=f"must be at least the {length} tokens of the p"):
                generate(model, inputs, prefill_chunk_size=piece)
            config, rest = copy.deepcopy(model.generation_config), dict(inputs)
            config.prefill_chunk_size = piece
            with pytest.raises(ValueError, match=f"must be at least the {length} tokens of the p"):
                model.generate(rest.pop("input_ids"), config, **rest)
        ids = inputs["input_ids"][:, :-10]
        with pytest.raises(ValueError, match="must have text after its last image"):
            model(input_ids=ids, pixel_values=inputs["pixel_values"])
        holds_still = oracle(model, inputs, 0, "1.5").tokens
        assert generate(model, inputs)[0][0].tolist() == holds_still
        # Taken; transformers 5.17 loses the image.
        generate(model, inputs, prefill_chunk_size=length)
        generate(model, float64(model, (9,)), prefill_chunk_size=7)
    assert "generate" not in vars(model)
