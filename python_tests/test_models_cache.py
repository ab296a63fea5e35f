"""What the key-value cache of a pruned prompt is put to between steps."""

import copy
import gc
import weakref

import pytest
import torch
from tiny_configs import TINY
from tiny_vlms import batch
from transformers import DynamicCache, StaticCache

import svdprune_ext
from svdprune_ext import FastV
from svdprune_ext.models.cache import LAYOUT, cache_argument, noted

TWO = ((3, "image", 9), (2, "image", 3))
LLAVA = "LlavaForConditionalGeneration"
FAMILIES = [LLAVA, "Qwen2_5_VLForConditionalGeneration"]
SVD = {"keep": 4}
FASTV = {"method": "fastv", "keep": 4, "options": {"layer": 1}}


@pytest.fixture(params=FAMILIES)
def model(request):
    return TINY[request.param].build()


def after_prompt(model, inputs):
    """The cache of a prompt, and the name of the argument that takes it."""
    cache = DynamicCache(config=model.config.get_text_config())
    argument = cache_argument(model)
    model(**inputs, **{argument: cache})
    return cache, argument


def next_logits(model, inputs, change=None):
    """Of two more tokens, one after the other, on a cache whose rows were changed."""
    cache, argument = after_prompt(model, inputs)
    rows = torch.arange(len(inputs["input_ids"]))
    if change is not None:
        rows = change(cache, rows)
    mask, logits = inputs["attention_mask"][rows], []
    if getattr(model.base_model, "rope_deltas", None) is not None:
        model.base_model.rope_deltas = model.base_model.rope_deltas[rows]
    for token in (7, 8):
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        ids = torch.full((len(mask), 1), token)
        logits.append(model(input_ids=ids, attention_mask=mask, **{argument: cache}).logits)
    return torch.cat(logits, 1)


def repeated(cache, rows):
    cache.batch_repeat_interleave(2)
    return rows.repeat_interleave(2)


def selected(cache, rows):
    cache.batch_select_indices(torch.tensor([1]))
    return rows[[1]]


def reordered(cache, rows):
    cache.reorder_cache(torch.tensor([1, 0]))
    return rows.flip(0)


@pytest.mark.parametrize(
    ("family", "pruning"),
    [
        *((family, SVD) for family in FAMILIES),
        (LLAVA, FASTV),
        (LLAVA, {**SVD, "then": FastV(keep=2, layer=1)}),
    ],
)
@pytest.mark.parametrize("change", [repeated, selected, reordered])
def test_what_is_noted_follows_the_rows_of_the_cache(family, pruning, change):
    model = TINY[family].build()
    inputs = batch(model, *TWO)
    rows = change(_NoCache(), torch.arange(2))
    with svdprune_ext.apply(model, **pruning), torch.no_grad():
        expected = next_logits(model, inputs)[rows]
        torch.testing.assert_close(
            next_logits(model, inputs, change), expected, atol=1e-4, rtol=1e-4
        )


class _NoCache:
    """For what a change does to the rows' numbers."""

    def __getattr__(self, name):
        return lambda *args: None


@pytest.mark.parametrize("pruning", [SVD, FASTV], ids=["svd", "fastv"])
def test_a_static_cache_that_was_reset_takes_single_tokens(pruning):
    model = TINY[LLAVA].build()
    ids = torch.tensor([[5, 6, 7], [8, 9, 10]])
    cache = StaticCache(config=model.config.get_text_config(), max_cache_len=64)
    argument = cache_argument(model)
    with torch.no_grad():
        expected = model(input_ids=ids).logits
        with svdprune_ext.apply(model, **pruning):
            model(**batch(model, (3, "image", 9), (2,)), **{argument: cache})
            cache.reset()
            steps = [model(input_ids=one, **{argument: cache}).logits for one in ids.split(1, 1)]
    torch.testing.assert_close(torch.cat(steps, 1), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("pruning", [SVD, FASTV], ids=["svd", "fastv"])
def test_a_cache_that_was_cropped_to_nothing_is_as_new(pruning):
    model = TINY[LLAVA].build()
    ids = torch.tensor([[5, 6, 7], [8, 9, 10]]).repeat(1, 12)  # longer than what is noted
    with torch.no_grad():
        expected = model(input_ids=ids).logits
        with svdprune_ext.apply(model, **pruning):
            cache, argument = after_prompt(model, batch(model, (3, "image", 9), (2,)))
            cache.crop(-cache.get_seq_length())
            parts = ids.split([34, 1, 1], 1)
            steps = [model(input_ids=part, **{argument: cache}).logits for part in parts]
    torch.testing.assert_close(torch.cat(steps, 1), expected, atol=1e-4, rtol=1e-4)


def test_a_full_static_cache_takes_one_token_at_a_time():
    model = TINY[LLAVA].build()
    cache = StaticCache(config=model.config.get_text_config(), max_cache_len=64)
    argument = cache_argument(model)
    with svdprune_ext.apply(model, 4), torch.no_grad():
        model(**batch(model, *TWO), **{argument: cache})
        with pytest.raises(ValueError, match="takes one token at a time, got 2"):
            model(input_ids=torch.full((2, 2), 7), **{argument: cache})


def test_a_copy_of_the_cache_keeps_notes_of_its_own(model):
    inputs = batch(model, *TWO)
    with svdprune_ext.apply(model, 4), torch.no_grad():
        cache, _ = after_prompt(model, inputs)
        copied = copy.deepcopy(cache)
        copied.batch_select_indices(torch.tensor([1]))
        assert len(noted(copied, LAYOUT).index) == 1
        assert len(noted(cache, LAYOUT).index) == 2


def test_a_cache_goes_when_nobody_needs_it(model):
    gc.collect()
    gc.disable()
    try:
        with svdprune_ext.apply(model, 4), torch.no_grad():
            cache, _ = after_prompt(model, batch(model, *TWO))
            alive = weakref.ref(cache)
            del cache
            assert alive() is None
    finally:
        gc.enable()


def test_a_prompt_kept_for_several_continuations(model):
    """transformers' way to share a prefix: one prompt in the cache, repeated for a batch."""
    inputs = batch(model, TWO[0])
    more = torch.tensor([[7, 8, 9]])
    ids = torch.cat([inputs["input_ids"], more], 1).repeat(2, 1)
    asked = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 3, "do_sample": False}
    with svdprune_ext.apply(model, 4), torch.no_grad():
        cache, argument = after_prompt(model, inputs)
        alone = model.generate(
            ids[:1],
            **{**asked, "attention_mask": asked["attention_mask"][:1]},
            **{argument: copy.deepcopy(cache)},
        )
        cache.batch_repeat_interleave(2)
        both = model.generate(ids, **asked, **{argument: cache})
    assert torch.equal(both, alone.repeat(2, 1))


def test_a_cache_of_other_rows_is_refused(model):
    inputs = batch(model, *TWO)
    with svdprune_ext.apply(model, 4), torch.no_grad():
        cache, argument = after_prompt(model, inputs)
        with pytest.raises(
            ValueError, match="must hold the 3 rows of the batch, got a pruned prompt of 2"
        ):
            model(input_ids=torch.full((3, 1), 7), **{argument: cache})
