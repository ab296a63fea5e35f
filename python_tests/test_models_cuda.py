"""apply() on a GPU: the same tokens, logits and text as on the CPU."""

import copy
import sys
from pathlib import Path

import pytest
import torch
from by_hand import RANK
from cuda_calls import needs_cuda
from tiny_configs import TINY
from tiny_vlms import batch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import svdprune_ext
from bench.gpu_timing import captured
from bench.prefill_graph import without_placeholder_check

pytestmark = needs_cuda
PROMPTS = ((1, "image", 2, "image", 4), (4, "image", 3), (6,))
KEEP, NEW = 4, 4
CUTS = {"options": {"layers": (0, 1)}}
WITHIN = {
    "fastv": {"method": "fastv", "keep": 4},
    "pyramiddrop": {"method": "pyramiddrop", **CUTS},
    **{
        f"sparsevlm {version}": {
            "method": "sparsevlm",
            "tokens": (6, 4),
            "version": version,
            **CUTS,
        }
        for version in ("1.5", "2.0")
    },
}


@pytest.fixture(autouse=True)
def full_float32(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)


@pytest.fixture(scope="module", params=TINY)
def model(request):
    return TINY[request.param].build()


def moved(inputs):
    return {name: value.cuda() for name, value in inputs.items()}


def pruned(model, inputs, options):
    """Logits of a prefill, decoded tokens, and how many tokens were kept."""
    with torch.no_grad(), svdprune_ext.apply(model, **options) as handle:
        logits = model(**inputs).logits
        kept = handle.last.num_kept
        ids = model.generate(**inputs, max_new_tokens=NEW, do_sample=False)
    return logits.cpu(), ids.cpu(), kept


@pytest.mark.parametrize("positions", ["compact", "original"])
@pytest.mark.parametrize("select", ["topk", "pivoted"])
def test_it_does_what_it_does_on_the_cpu(model, positions, select):
    options = {"keep": KEEP, "positions": positions, "select": select}
    options |= {"rank": RANK} if select == "topk" else {}
    inputs = batch(model, *PROMPTS)
    logits, ids, kept = pruned(model, inputs, options)
    on_gpu = copy.deepcopy(model).cuda()
    got = pruned(on_gpu, moved(inputs), options)
    assert got[2] == kept
    torch.testing.assert_close(got[0], logits, atol=2e-3, rtol=1e-3)
    assert torch.equal(got[1], ids)


def test_keep_all_is_bit_identical(model):
    on_gpu, inputs = copy.deepcopy(model).cuda(), moved(batch(model, *PROMPTS))
    with torch.no_grad():
        expected = on_gpu(**inputs).logits
        with svdprune_ext.apply(on_gpu, keep=1000):
            assert torch.equal(on_gpu(**inputs).logits, expected)


@pytest.mark.parametrize("name", WITHIN)
def test_within_the_decoder_it_does_what_it_does_on_the_cpu(name):
    model = TINY["LlavaForConditionalGeneration"].build()
    inputs = batch(model, *PROMPTS)
    logits, ids, kept = pruned(model, inputs, WITHIN[name])
    got = pruned(model.cuda(), moved(inputs), WITHIN[name])
    assert got[2] == kept
    torch.testing.assert_close(got[0], logits, atol=2e-3, rtol=1e-3)
    assert torch.equal(got[1], ids)


@pytest.mark.parametrize("select", ["topk", "pivoted"])
def test_a_captured_prefill_replays_to_what_eager_gives(select):
    model = TINY["LlavaForConditionalGeneration"].build()
    prompts = ((3, "image", 4), (5, "image", 2))
    inputs = moved(batch(model, *prompts))
    others = [batch(model, *prompts, seed=seed)["pixel_values"] for seed in (2, 3)]
    model.cuda()
    with torch.no_grad(), svdprune_ext.apply(model, KEEP, select=select):
        with without_placeholder_check(model):
            run = captured(lambda: model(**inputs, use_cache=True).logits)
        for pixels in others:
            inputs["pixel_values"].copy_(pixels)
            _, logits = run()
            torch.testing.assert_close(logits, model(**inputs).logits)


def test_a_budget_that_depends_on_the_scores_is_not_captured():
    model = TINY["LlavaForConditionalGeneration"].build()
    inputs = moved(batch(model, *PROMPTS))
    model.cuda()
    refused = pytest.raises(ValueError, match="compiled or captured, coverage must be None")
    with torch.no_grad(), svdprune_ext.apply(model, KEEP, coverage=0.5), refused:
        captured(lambda: model(**inputs).logits)
