"""Each way to run a pruned model, as a function that fails where it does not equal decoding by hand."""

from __future__ import annotations

import contextlib
import copy

import torch
from by_hand import RANK, decoder_inputs, greedy_by_hand, kept_positions, logits_by_hand
from tiny_processors import processor_of
from tiny_vlms import IMAGE, VIDEO, batch, tiny_of

import svdprune_ext
from svdprune_ext.models.families import family_of

KEEP, NEW = 4, 5
ONE = ((3, "image", 9),)
TWO = ((3, "image", 9), (2, "image", 3))


def patched(model, **options):
    return svdprune_ext.apply(model, KEEP, rank=RANK, **options)


def generated(model, inputs, **options):
    ids = model.generate(**inputs, max_new_tokens=NEW, **{"do_sample": False, **options})
    return ids[:, inputs["input_ids"].shape[1] :]


def by_hand(model, inputs, positions=None):
    return greedy_by_hand(model, inputs, KEEP, NEW, positions or family_of(model).positions)


def equals_by_hand(model, prompts, **options):
    inputs = batch(model, *prompts)
    expected = by_hand(model, inputs)
    with patched(model):
        assert torch.equal(generated(model, inputs, **options), expected)


def equals_itself_without_a_cache(model, **options):
    """For what is not greedy: the pruned model, from scratch for each token."""
    inputs = batch(model, *TWO)
    options["suppress_tokens"] = [IMAGE, VIDEO]
    with patched(model):
        torch.manual_seed(3)
        cached = generated(model, inputs, **options)
        torch.manual_seed(3)
        assert torch.equal(cached, generated(model, inputs, use_cache=False, **options))


def run_batch(model):
    equals_by_hand(model, ((1, "image", 2, "image", 4), (4, "image", 3), (6,)))
    inputs = batch(model, *TWO, padding="right")
    expected = logits_by_hand(model, inputs, KEEP, family_of(model).positions)
    with patched(model), torch.no_grad():
        logits = model(**inputs).logits
    for row, kept in enumerate(kept_positions(model, inputs, KEEP)):
        torch.testing.assert_close(logits[row, kept], expected[row], atol=2e-4, rtol=1e-4)


def run_text_only(model):
    inputs = batch(model, (9,), (4,))
    with torch.no_grad():
        expected = model(**inputs).logits
    greedy = generated(model, inputs)
    with patched(model) as handle, torch.no_grad():
        assert torch.equal(model(**inputs).logits, expected)
        assert torch.equal(generated(model, inputs), greedy)
        assert handle.last is None


def run_greedy(model):
    equals_by_hand(model, ONE)


def run_sampling(model):
    equals_itself_without_a_cache(model, do_sample=True)


def run_beams(model):
    equals_itself_without_a_cache(model, num_beams=3)


def run_no_cache(model):
    equals_by_hand(model, TWO, use_cache=False)


def run_prompt_lookup(model):
    equals_by_hand(model, ONE, prompt_lookup_num_tokens=3)


def run_draft_model(model):
    draft = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in draft.get_decoder().parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.02)
    equals_by_hand(model, ONE, assistant_model=draft)


def run_chunked_prefill(model):
    for size in (1, 2, 7):  # chunks of which all is dropped among them
        equals_by_hand(model, ONE, prefill_chunk_size=size)


def run_static_cache(model):
    for prompts in (ONE, TWO):
        equals_by_hand(model, prompts, cache_implementation="static", disable_compile=True)


def run_static_compiled(model):
    from transformers import CompileConfig

    torch._dynamo.reset()
    compiled = CompileConfig(backend="eager", fullgraph=True, mode=None)
    compiled._compile_all_devices = True  # transformers compiles on GPUs only, if not told so
    equals_by_hand(model, TWO, cache_implementation="static", compile_config=compiled)


def run_hand_written_loop(model):
    for prompts, masked in ((ONE, False), (TWO, True)):
        inputs = batch(model, *prompts)
        expected = by_hand(model, inputs)
        mask, tokens = inputs["attention_mask"], []
        if not masked:
            del inputs["attention_mask"]
        with patched(model), torch.no_grad():
            out = model(**inputs, use_cache=True)
            for _ in range(NEW):
                tokens.append(out.logits[:, -1].argmax(-1, keepdim=True))
                mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
                out = model(
                    input_ids=tokens[-1],
                    attention_mask=mask if masked else None,
                    past_key_values=out.past_key_values,
                )
        assert torch.equal(torch.cat(tokens, 1), expected)


def followed_by(model, inputs, ids):
    """The inputs of a conversation: ids and whatever goes with them, longer than before."""
    new = ids.shape[1] - inputs["input_ids"].shape[1]
    ones = torch.ones(len(ids), new, dtype=torch.long)
    mask = torch.cat([inputs["attention_mask"], ones], 1)
    types = {k: v for k, v in inputs.items() if "token_type" in k}
    tail = torch.full_like(ones, tiny_of(model).next_type)
    longer = {k: torch.cat([v, tail.to(v.dtype)], 1) for k, v in types.items()}
    return {"input_ids": ids, "attention_mask": mask, **longer}


def run_next_turn(model):
    for prompt in (ONE, TWO):
        for positions in ("compact", "original"):
            inputs = batch(model, *prompt)
            question = torch.tensor([[33, 34, 35], [36, 37, 38]])[: len(prompt)]
            with patched(model, positions=positions):
                turn = model.generate(
                    **inputs,
                    max_new_tokens=NEW,
                    do_sample=False,
                    return_dict_in_generate=True,
                )
                ids = torch.cat([turn.sequences, question], 1)
                text = followed_by(model, inputs, ids)
                grid = {k: v for k, v in inputs.items() if k == "image_grid_thw"}
                second = generated(model, {**text, **grid}, past_key_values=turn.past_key_values)
            assert torch.equal(second, by_hand(model, {**inputs, **text}, positions))


def run_repeated_cache(model):
    inputs = batch(model, *ONE)
    grid = {k: v for k, v in inputs.items() if k == "image_grid_thw"}
    with patched(model):
        turn = model.generate(
            **inputs, max_new_tokens=NEW, do_sample=False, return_dict_in_generate=True
        )
        turn.past_key_values.batch_repeat_interleave(2)
        questions = torch.tensor([[33, 34, 35], [36, 37, 38]])
        ids = torch.cat([turn.sequences.repeat(2, 1), questions], 1)
        twice = {
            k: v.repeat(2, 1)
            for k, v in inputs.items()
            if k == "attention_mask" or "token_type" in k
        }
        text = followed_by(model, {"input_ids": inputs["input_ids"], **twice}, ids)
        answers = generated(model, {**text, **grid}, past_key_values=turn.past_key_values)
    for row, answer in enumerate(answers):
        alone = followed_by(model, inputs, ids[row : row + 1])
        assert torch.equal(answer, by_hand(model, {**inputs, **alone})[0])


def run_next_turn_static(model):
    from transformers import StaticCache

    inputs = batch(model, *ONE)
    cache = StaticCache(config=model.config.get_text_config(), max_cache_len=128)
    options = {"past_key_values": cache, "max_new_tokens": NEW, "disable_compile": True}
    with patched(model):
        ids = model.generate(**inputs, do_sample=False, **options)
        text = followed_by(model, inputs, torch.cat([ids, torch.tensor([[33, 34, 35]])], 1))
        model.generate(**text, do_sample=False, **options)


def run_next_image(model):
    inputs = batch(model, (3, "image", 9, "image", 4))
    first = batch(model, *ONE)
    seen = first["input_ids"].shape[1]
    expected = by_hand(model, inputs)
    # The ids of M-RoPE for a new image on a cache have to be given: unpatched, too.
    ids = decoder_inputs(model, inputs)["position_ids"] if tiny_of(model).mrope else None
    with patched(model), torch.no_grad():
        cache = model(**first, use_cache=True).past_key_values
        new = {k: v[:, seen:] for k, v in inputs.items() if k == "input_ids" or "type" in k}
        new |= {k: v[1:] for k, v in inputs.items() if k in ("image_sizes", "image_grid_thw")}
        pixels = inputs["pixel_values"]
        new["pixel_values"] = pixels[len(first["pixel_values"]) :]
        mask = inputs["attention_mask"]
        options = {} if ids is None else {"position_ids": ids[..., seen:]}
        logits = model(**new, **options, attention_mask=mask, past_key_values=cache).logits
    assert logits[0, -1].argmax() == expected[0, 0]


def run_embeddings(model, pruned=True):
    inputs = batch(model, *ONE)
    embeds = model.get_input_embeddings()(inputs["input_ids"]).detach()
    rest = {k: v for k, v in inputs.items() if k != "input_ids"}
    with torch.no_grad():
        unpatched = model(inputs_embeds=embeds, **rest).logits
        torch.testing.assert_close(unpatched, model(**inputs).logits)
        with patched(model) if pruned else contextlib.nullcontext():
            logits = model(inputs_embeds=embeds, **rest).logits
            assert torch.equal(logits, model(**inputs).logits)


def run_compiled_prefill(model, pruned=True):
    inputs = batch(model, *TWO)
    torch._dynamo.reset()
    with patched(model) if pruned else contextlib.nullcontext(), torch.no_grad():
        expected = model(**inputs).logits
        compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="eager")
        torch.testing.assert_close(compiled(**inputs).logits, expected)
        again = batch(model, (5, "image", 9), (2, "image", 7), seed=2)
        torch.testing.assert_close(compiled(**again).logits, model(**again).logits)


class LogitsOf(torch.nn.Module):
    """A model from tensors to a tensor, as an exported program is."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, inputs):
        return self.model(**inputs, use_cache=False).logits


def exported(model, inputs):
    """The program of a prompt of any length with these images."""
    length = torch.export.Dim("length", min=20, max=256)
    by_length = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")
    dynamic = {name: {1: length} if name in by_length else None for name in inputs}
    return torch.export.export(LogitsOf(model), (inputs,), dynamic_shapes=(dynamic,), strict=False)


def run_export(model, pruned=True):
    inputs = batch(model, *TWO)
    longer = batch(model, (5, "image", 9), (2, "image", 7), seed=2)
    with patched(model) if pruned else contextlib.nullcontext() as handle, torch.no_grad():
        expected, other = model(**inputs).logits, model(**longer).logits
        last = handle.last if pruned else None
        program = exported(model, inputs).module()
        assert handle is None or handle.last is last  # tracing notes nothing
        torch.testing.assert_close(program(inputs), expected)
        torch.testing.assert_close(program(longer), other)


def run_attentions(model):
    model = tiny_of(model).build("eager")
    inputs = batch(model, *ONE)
    (kept,) = kept_positions(model, inputs, KEEP)
    with patched(model), torch.no_grad():
        out = model(**inputs, output_attentions=True, output_hidden_states=True)
    slots = len(kept)
    assert out.attentions[0].shape[-2:] == (slots, slots)
    assert out.hidden_states[0].shape[1] == slots
    assert out.logits.shape[1] == inputs["input_ids"].shape[1]
    totals = out.attentions[0].sum(-1)
    torch.testing.assert_close(totals, torch.ones_like(totals))


def run_training(model):
    model = tiny_of(model).build().train()
    inputs = batch(model, *TWO)
    ids = inputs["input_ids"]
    labels = ids.masked_fill((ids == IMAGE) | (inputs["attention_mask"] == 0), -100)
    losses = []
    with patched(model):
        for checkpointing in (False, True):
            if checkpointing:
                model.gradient_checkpointing_enable({"use_reentrant": False})
            model.zero_grad()
            loss = model(**inputs, labels=labels, use_cache=False).loss
            loss.backward()
            losses.append(loss.detach())
    torch.testing.assert_close(losses[0], losses[1])
    tower = getattr(model.model, "vision_tower", None) or model.model.visual
    for module in (tiny_of(model).projector(model), tower, model.get_decoder()):
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        assert gradients
        assert all(g.isfinite().all() for g in gradients)
        assert any(g.abs().max() > 0 for g in gradients)


def run_pipeline(model):
    from PIL import Image
    from transformers import pipeline

    processor, mark = processor_of(model)
    photo = Image.linear_gradient("L").resize((40, 56)).convert("RGB")
    prompt = f"{mark} What is this?"
    inputs = processor(images=photo, text=prompt, return_tensors="pt")
    (expected,) = by_hand(model, inputs)
    run = pipeline("image-text-to-text", model=model, processor=processor)
    options = {"generate_kwargs": {"max_new_tokens": NEW, "do_sample": False}}
    with patched(model) as handle:
        (ids,) = run(images=photo, text=prompt, return_tensors=True, **options)
        assert handle.last.num_kept == (KEEP,)
        (text,) = run(images=photo, text=prompt, return_full_text=False, **options)
    assert torch.equal(ids["generated_token_ids"][-NEW:], expected)
    assert text["generated_text"] == processor.decode(expected, skip_special_tokens=True)
