"""apply() on every family: a forward pass and generate() equal the unpatched model on the kept tokens."""

import pytest
import torch
from by_hand import RANK, greedy_by_hand, kept_positions, logits_by_hand
from tiny_configs import TINY
from tiny_vlms import batch, tiny_of

import svdprune_ext

# Rows of different lengths, with different numbers of images of different sizes.
PROMPTS = ((1, "image", 2, "image", 4), (4, "image", 3), (6,))
KEEP, NEW = 4, 4


@pytest.fixture(scope="module", params=TINY)
def model(request):
    return TINY[request.param].build()


def logits_of(model, inputs, **options):
    with torch.no_grad():
        return model(**inputs, **options).logits


@pytest.mark.parametrize("positions", ["compact", "original"])
@pytest.mark.parametrize("padding", ["left", "right"])
def test_keep_k_equals_the_kept_tokens_handed_over_by_hand(model, padding, positions):
    inputs = batch(model, *PROMPTS, padding=padding)
    expected = logits_by_hand(model, inputs, KEEP, positions)
    # As generate() numbers them, without padding; M-RoPE's ids come from the model.
    ids = {"position_ids": (inputs["attention_mask"].cumsum(1) - 1).clamp_min(0)}
    with svdprune_ext.apply(model, KEEP, rank=RANK, positions=positions) as handle:
        logits = logits_of(model, inputs, **({} if tiny_of(model).mrope else ids))
        assert handle.last.num_kept == (KEEP,) * 3
    assert logits.shape[:2] == inputs["input_ids"].shape
    for row, kept in enumerate(kept_positions(model, inputs, KEEP)):
        torch.testing.assert_close(logits[row, kept], expected[row], atol=2e-4, rtol=1e-4)


def test_keep_all_is_bit_identical_and_remove_restores(model):
    inputs = batch(model, *PROMPTS)
    expected = logits_of(model, inputs)
    with svdprune_ext.apply(model, keep=1000):
        assert torch.equal(logits_of(model, inputs), expected)
    with svdprune_ext.apply(model, keep=1.0, features="projector"):
        assert torch.equal(logits_of(model, inputs), expected)
    with svdprune_ext.apply(model, KEEP):
        assert not torch.equal(logits_of(model, inputs), expected)
    assert torch.equal(logits_of(model, inputs), expected)


def test_keep_all_is_bit_identical_in_half_precision(model):
    model = tiny_of(model).build("eager", torch.bfloat16)
    inputs = batch(model, *PROMPTS, dtype=torch.bfloat16)
    expected = logits_of(model, inputs)
    with svdprune_ext.apply(model, keep=1000):
        assert torch.equal(logits_of(model, inputs), expected)


@pytest.mark.parametrize("positions", ["compact", "original"])
def test_greedy_generation_equals_decoding_by_hand(model, positions):
    inputs = batch(model, *PROMPTS)
    expected = greedy_by_hand(model, inputs, KEEP, NEW, positions)
    with svdprune_ext.apply(model, KEEP, rank=RANK, positions=positions):
        ids = model.generate(**inputs, max_new_tokens=NEW, do_sample=False)
    assert torch.equal(ids[:, inputs["input_ids"].shape[1] :], expected)


def test_scores_behind_the_projector_are_those_of_its_rows(model):
    inputs = batch(model, *PROMPTS)
    plain = {k: v for k, v in inputs.items() if "pixel" in k or "image" in k}
    with torch.no_grad():
        rows = model.get_image_features(**plain, return_dict=True).pooler_output
    rows = torch.cat([image.flatten(0, -2) for image in rows])
    with svdprune_ext.apply(model, KEEP, rank=RANK, features="projector") as handle:
        logits_of(model, inputs)
    for scores, image in zip(handle.last.scores, rows.split(handle.last.num_tokens), strict=True):
        tokens = scores > 0  # a separator scores 0
        expected = svdprune_ext.leverage_scores(image[tokens], rank=RANK).scores
        torch.testing.assert_close(scores[tokens], expected)


def test_every_supported_model_is_tested():
    assert svdprune_ext.supported_models() == list(TINY)


class Adapted(torch.nn.Module):
    """As PEFT wraps a model."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def get_base_model(self):
        return self.model


@pytest.mark.parametrize(
    ("wrap", "advice"),
    [
        (torch.compile, "got OptimizedModule; apply comes before torch.compile"),
        (torch.nn.DataParallel, "got DataParallel; apply takes its module"),
        (Adapted, r"got Adapted; apply takes its get_base_model\(\)"),
        (lambda _: torch.nn.Linear(2, 2), "got Linear; docs/adding-a-model.md says how"),
    ],
)
def test_what_holds_a_model_is_refused_with_advice(wrap, advice):
    model = wrap(TINY["LlavaForConditionalGeneration"].build())
    with pytest.raises(ValueError, match=f"model must be one of LlavaForCon.*, {advice}"):
        svdprune_ext.apply(model)
