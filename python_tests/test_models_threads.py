"""Threads that share a patched model: one forward pass at a time, and what comes in meanwhile is refused."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import torch
from tiny_configs import TINY
from tiny_vlms import batch

import svdprune_ext

FASTV = {"method": "fastv", "keep": 4, "options": {"layer": 1}}
PRUNINGS = {
    "image": {"keep": 4},
    "prompt": {"keep": 4, "per": "prompt"},
    "fastv": FASTV,
    "then": {"keep": 8, "then": svdprune_ext.FastV(keep=4, layer=1)},
}
every_pruning = pytest.mark.parametrize("pruning", PRUNINGS.values(), ids=PRUNINGS)


@pytest.fixture
def model():
    return TINY["LlavaForConditionalGeneration"].build()


@contextmanager
def held(module, call):
    """Runs a call in another thread, which waits in front of a module; the result is there at the end."""
    there, go_on = threading.Event(), threading.Event()

    def wait(*_):
        if threading.current_thread() is not threading.main_thread():
            there.set()
            assert go_on.wait(60)

    hook = module.register_forward_pre_hook(wait)
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(call)
        assert there.wait(60)
        try:
            yield future
        finally:
            go_on.set()
            future.exception()
            hook.remove()


def calls(model):
    """By name: a call of the model and one that comes in meanwhile, of other shapes."""
    one, two = batch(model, (3, "image", 9)), batch(model, (3, "image", 9, "image", 4))

    def forward(inputs):
        with torch.no_grad():
            return model(**inputs).logits

    def generate(inputs):
        return model.generate(**inputs, max_new_tokens=3, do_sample=False)

    return {
        "forward": (lambda: forward(one), lambda: forward(two)),
        "generate": (lambda: generate(one), lambda: generate(two)),
        "features": (
            lambda: forward(one),
            lambda: model.get_image_features(two["pixel_values"]).pooler_output,
        ),
    }


@every_pruning
@pytest.mark.parametrize("place", ["tower", "decoder layer"])
@pytest.mark.parametrize("name", ["forward", "generate", "features"])
def test_a_call_while_another_threads_is_under_way_is_refused(model, name, place, pruning):
    if pruning is FASTV and (name == "features" or (name, place) == ("generate", "tower")):
        pytest.skip("images are encoded ahead of the step, and nothing is pruned there")
    modules = {
        "tower": model.base_model.vision_tower,
        "decoder layer": model.get_decoder().layers[0].mlp,
    }
    first, second = calls(model)[name]
    with svdprune_ext.apply(model, **pruning):
        expected, of_second = first(), second()
        with held(modules[place], first) as future, pytest.raises(RuntimeError, match="a lock"):
            second()
        assert torch.equal(future.result(), expected)
        again = second()
    for a, b in zip(of_second, again, strict=True):
        torch.testing.assert_close(a, b, equal_nan=True)


def test_threads_with_a_lock_get_what_one_gets(model):
    lock = threading.Lock()
    inputs = [batch(model, (3, "image", *range(2, 2 + n))) for n in range(1, 5)]

    def ask(one):
        with lock:
            return model.generate(**one, max_new_tokens=3, do_sample=False)

    with svdprune_ext.apply(model, 4, per="prompt"):
        expected = [ask(one) for one in inputs]
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(ask, inputs * 4))
    for answer, right in zip(answers, expected * 4, strict=True):
        assert torch.equal(answer, right)


def test_the_turn_of_a_thread_that_ended_within_a_step_is_over(model):
    inputs = batch(model, (3, "image", 9))

    def leave(*_):
        raise SystemExit

    with svdprune_ext.apply(model, 4), torch.no_grad():
        expected = model(**inputs).logits
        hook = model.base_model.vision_tower.register_forward_pre_hook(leave)
        thread = threading.Thread(target=lambda: model(**inputs))
        thread.start()
        thread.join()
        hook.remove()
        assert torch.equal(model(**inputs).logits, expected)
