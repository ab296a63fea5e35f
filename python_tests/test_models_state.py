"""What a patched model may be put through besides running: copies, failures, other hands on it."""

import copy
import pickle

import pytest
import torch
from tiny_configs import TINY
from tiny_vlms import batch

import svdprune_ext
from svdprune_ext.models.cache import cache_argument

FASTV = {"method": "fastv", "keep": 4, "options": {"layer": 1}}


@pytest.fixture
def model():
    return TINY["LlavaForConditionalGeneration"].build()


@pytest.fixture
def inputs(model):
    return batch(model, (3, "image", 9))


@pytest.mark.parametrize("pruning", [{"keep": 4}, FASTV], ids=["svd", "fastv"])
@pytest.mark.parametrize("copied", [copy.deepcopy, pickle.dumps])
def test_a_patched_model_refuses_to_be_copied(model, copied, pruning):
    with (
        svdprune_ext.apply(model, **pruning),
        pytest.raises(TypeError, match="a patched model cannot be copied or pickled"),
    ):
        copied(model)
    copied(model)


def test_a_nan_of_the_models_own_stays(model, inputs):
    with torch.no_grad():
        model.get_input_embeddings().weight[7] = float("nan")
    inputs["input_ids"][0, 1] = 7
    with svdprune_ext.apply(model, 4), torch.no_grad():
        assert model(**inputs, labels=inputs["input_ids"]).loss.isnan()


@pytest.mark.parametrize("keep", [4, 1.0])
def test_a_nan_of_the_projectors_own_stays(model, inputs, keep):
    with torch.no_grad():
        model.base_model.multi_modal_projector.linear_2.bias[0] = float("nan")
    with svdprune_ext.apply(model, keep), torch.no_grad():
        assert model(**inputs).logits[:, -1].isnan().all()
        asked = {"max_new_tokens": 1, "output_logits": True, "return_dict_in_generate": True}
        assert model.generate(**inputs, **asked).logits[0].isnan().all()


def test_the_record_begins_anew_with_each_call_of_the_encoder(model, inputs):
    with svdprune_ext.apply(model, 4) as handle, torch.no_grad():
        for _ in range(3):
            model.get_image_features(inputs["pixel_values"])
        assert handle.last.num_kept == (4,)


def test_image_features_as_a_tuple(model, inputs, monkeypatch):
    with torch.no_grad():
        expected = model.get_image_features(inputs["pixel_values"], return_dict=False)
        with svdprune_ext.apply(model, 1.0):
            got = model.get_image_features(inputs["pixel_values"], return_dict=False)
            with monkeypatch.context() as patch:
                patch.setattr(model.base_model.config, "return_dict", False)
                by_config = model.base_model.get_image_features(inputs["pixel_values"])
    assert len(got) == len(expected)
    assert torch.equal(got[0], expected[0])
    assert isinstance(by_config, tuple)


@pytest.mark.parametrize("options", [{}, {"per": "prompt"}])
def test_a_failed_step_leaves_nothing_behind(model, inputs, options):
    no_places = {**inputs, "input_ids": torch.full_like(inputs["input_ids"], 5)}
    with svdprune_ext.apply(model, 4, **options) as handle, torch.no_grad():
        for again in (
            lambda: model(**inputs),
            lambda: model.generate(**inputs, max_new_tokens=2),
            lambda: model.get_image_features(inputs["pixel_values"]),
        ):
            with pytest.raises(ValueError):  # noqa: PT011  (the placeholders, in whoever's words)
                model(**no_places)
            again()
            assert handle.last.num_kept == (4,)


def test_the_decoder_alone_is_not_told_of_earlier_steps(model, inputs):
    embeds = torch.randn(1, 40, model.config.get_text_config().hidden_size)
    with torch.no_grad():
        expected = model.get_decoder()(inputs_embeds=embeds).last_hidden_state
        with svdprune_ext.apply(model, 4):
            model(**inputs)
            got = model.get_decoder()(inputs_embeds=embeds).last_hidden_state
    assert torch.equal(got, expected)


@pytest.mark.parametrize("pruning", [{"keep": 4}, FASTV], ids=["svd", "fastv"])
def test_the_decoder_alone_is_not_told_of_a_step_that_failed(model, inputs, pruning):
    embeds = torch.randn(1, 5, model.config.get_text_config().hidden_size)
    other = {**inputs, "pixel_values": inputs["pixel_values"][:, :1]}  # the tower refuses it
    with torch.no_grad():
        expected = model.get_decoder()(inputs_embeds=embeds).last_hidden_state
        with svdprune_ext.apply(model, **pruning):
            with pytest.raises(RuntimeError):
                model(**other)
            got = model.get_decoder()(inputs_embeds=embeds).last_hidden_state
    assert torch.equal(got, expected)


@pytest.mark.parametrize(
    "pruning", [FASTV, {"keep": 8, "then": svdprune_ext.FastV(keep=4, layer=1)}]
)
def test_the_decoder_alone_is_not_told_of_a_step_with_too_few_placeholders(model, inputs, pruning):
    too_few = {**inputs, "input_ids": inputs["input_ids"].clone()}
    too_few["input_ids"][0, 5] = 7  # in place of a placeholder
    embeds = torch.randn(1, inputs["input_ids"].shape[1], 48)
    with torch.no_grad():
        expected = model.get_decoder()(inputs_embeds=embeds).last_hidden_state
        with svdprune_ext.apply(model, **pruning):
            with pytest.raises(ValueError):  # noqa: PT011  (transformers' words)
                model(**too_few)
            got = model.get_decoder()(inputs_embeds=embeds).last_hidden_state
    assert torch.equal(got, expected)


def test_a_step_that_failed_within_the_decoder_leaves_the_record_as_it_was(model, inputs):
    def fail(*_):
        raise RuntimeError("within the decoder")

    with svdprune_ext.apply(model, **FASTV) as handle, torch.no_grad():
        model(**inputs)
        expected = handle.last.decoder.num_tokens
        hook = model.get_decoder().layers[0].mlp.register_forward_pre_hook(fail)
        with pytest.raises(RuntimeError, match="within"):
            model(**inputs)
        hook.remove()
        assert handle.last.decoder.num_tokens == expected


def test_a_failed_generate_leaves_nothing_behind(model, inputs):
    two = batch(model, (1, "image", 2, "image", 4))
    with svdprune_ext.apply(model, 4, per="prompt"), torch.no_grad():
        with pytest.raises(ValueError, match="max_new_tokens"):
            model.generate(**inputs, max_new_tokens=-1)
        model.get_image_features(two["pixel_values"])


def test_the_projector_alone_is_as_before(model):
    features = torch.randn(1, 16, model.config.vision_config.hidden_size)
    projector = model.base_model.multi_modal_projector
    with torch.no_grad():
        expected = projector(features)
        with svdprune_ext.apply(model, 4):
            assert torch.equal(projector(features), expected)


@pytest.mark.parametrize(
    ("of_base", "name", "pruning"),
    [
        (True, "get_image_features", {"keep": 4}),
        (False, "generate", {"keep": 4, "per": "prompt"}),
        (False, "generate", FASTV),
        (
            False,
            "generate",
            {"keep": 8, "per": "prompt", "then": svdprune_ext.FastV(keep=4, layer=1)},
        ),
    ],
)
def test_removal_puts_back_what_the_instance_had(model, of_base, name, pruning):
    owner = model.base_model if of_base else model
    original = getattr(owner, name)
    own = lambda *args, **kwargs: original(*args, **kwargs)  # noqa: E731
    setattr(owner, name, own)
    svdprune_ext.apply(model, **pruning).remove()
    assert vars(owner)[name] is own


@pytest.mark.parametrize("method", ["svd", "fastv"])
def test_options_are_a_mapping(model, method):
    with pytest.raises(
        ValueError, match="options must be None or a mapping of names to values, got 3"
    ):
        svdprune_ext.apply(model, 4, method=method, options=3)


def test_one_base_model_is_patched_once(model):
    other = type(model)(model.config)
    other.model = model.model
    handle = svdprune_ext.apply(model, 4)
    with pytest.raises(ValueError, match="patched already"):
        svdprune_ext.apply(other, 4)
    handle.remove()
    svdprune_ext.apply(other, 4).remove()


def test_a_removed_handle_cannot_be_entered_again(model):
    handle = svdprune_ext.apply(model, 4)
    with handle:
        pass
    with pytest.raises(RuntimeError, match="was removed"), handle:
        pass


def test_without_scores_there_are_no_ranks(model, inputs):
    with svdprune_ext.apply(model, **FASTV) as handle, torch.no_grad():
        model(**inputs)
        assert handle.last.rank.tolist() == []


def test_a_decoder_that_is_fed_by_hand_one_embedding_at_a_time(model, inputs):
    with svdprune_ext.apply(model, 4), torch.no_grad():
        expected = model(**inputs).logits[:, -1]
        embeds = model.get_input_embeddings()(inputs["input_ids"])
        image = model.get_image_features(inputs["pixel_values"]).pooler_output
        image = image if isinstance(image, torch.Tensor) else torch.cat(list(image))
        places = inputs["input_ids"] == model.config.image_token_id
        embeds = embeds.masked_scatter(places.unsqueeze(-1), image.to(embeds))
        cache = None
        for i in range(embeds.shape[1]):
            mask = torch.ones(1, i + 1, dtype=torch.int64)
            step = embeds[:, i : i + 1]
            out = model(
                inputs_embeds=step, attention_mask=mask, **_cache(model, cache), use_cache=True
            )
            cache = out.get("cache") if "cache" in out else out.past_key_values
    torch.testing.assert_close(out.logits[:, -1], expected, atol=1e-4, rtol=1e-4)


def _cache(model, cache):
    return {} if cache is None else {cache_argument(model): cache}
