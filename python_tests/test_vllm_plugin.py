"""The vLLM plugin without vLLM: its plain functions, and its overrides on a stand-in for vLLM's classes.

The stand-in has the names and the signatures that the plugin relies on, and the order in which vLLM calls
them; that vLLM has them too is shown where it is installed (``test_vllm.py``).
"""

import importlib
import logging
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

import svdprune_ext
from svdprune_ext import vllm_plugin
from svdprune_ext.vllm_plugin import (
    ARCHITECTURE,
    PruneSettings,
    prune_features,
    register,
    settings_of,
)

ROOT = Path(__file__).resolve().parent.parent
IMAGE, TOKENS, WIDTH = 7, 16, 8


def config(**settings):
    vision = SimpleNamespace(model_type="clip_vision_model", image_size=28)
    return SimpleNamespace(svdprune=settings or None, vision_config=vision, image_token_index=IMAGE)


class Registry:
    """vLLM's ModelRegistry."""

    def __init__(self):
        self.models = {}

    def get_supported_archs(self):
        return self.models.keys()

    def register_model(self, name, model):
        assert name not in self.models
        self.models[name] = model


class Info:
    """LlavaProcessingInfo."""

    model_id = "llava"

    def __init__(self, hf_config):
        self.hf_config = hf_config

    def get_hf_config(self):
        return self.hf_config

    def get_num_image_tokens(self, *, image_width, image_height):
        return TOKENS


class Processor:
    """LlavaMultiModalProcessor."""

    def __init__(self, info):
        self.info = info

    def apply(self, prompt):
        count = self.info.get_num_image_tokens(image_width=28, image_height=28)
        return [t for id_ in prompt for t in ([IMAGE] * count if id_ == IMAGE else [id_])]


class Llava(torch.nn.Module):
    """LlavaForConditionalGeneration, as far as the projector."""

    def __init__(self, hf_config):
        super().__init__()
        self.config = hf_config
        self.multi_modal_projector = torch.nn.Linear(WIDTH, 12)

    def _process_image_pixels(self, inputs):
        return inputs["pixel_values"]

    def embed_multimodal(self, **inputs):
        return self.multi_modal_projector(self._process_image_pixels(inputs))


@pytest.fixture
def vllm(monkeypatch):
    def module(name, **names):
        made = ModuleType(name)
        vars(made).update(names)
        monkeypatch.setitem(sys.modules, name, made)
        return made

    def register_processor(processor, *, info, dummy_inputs):
        def decorate(model):
            model.made_by = (processor, info, dummy_inputs)
            return model

        return decorate

    module("vllm", ModelRegistry=Registry())
    module("vllm.model_executor")
    module("vllm.model_executor.models")
    module(
        "vllm.model_executor.models.llava",
        LlavaDummyInputsBuilder=object,
        LlavaForConditionalGeneration=Llava,
        LlavaMultiModalProcessor=Processor,
        LlavaProcessingInfo=Info,
    )
    registry = SimpleNamespace(register_processor=register_processor)
    module("vllm.multimodal", MULTIMODAL_REGISTRY=registry)
    monkeypatch.delitem(sys.modules, "svdprune_ext.vllm_llava", raising=False)
    register.cache_clear()
    yield sys.modules["vllm"]
    sys.modules.pop("svdprune_ext.vllm_llava", None)
    register.cache_clear()


def load(registry):
    module, name = registry.models[ARCHITECTURE].split(":")
    return getattr(importlib.import_module(module), name)


@pytest.mark.parametrize("images", [0, 1, 3])
def test_a_prompt_has_a_placeholder_for_each_token_kept(vllm, images):
    register()
    register()
    model_class = load(vllm.ModelRegistry)
    hf_config = config(keep=5)
    processor_class, info_class, _ = model_class.made_by
    prompt = [1, 2, *[IMAGE] * images, 3]  # images side by side
    ids = processor_class(info_class(hf_config)).apply(prompt)
    assert ids == [1, 2, *[IMAGE] * (5 * images), 3]
    if images:
        model, pixels = model_class(hf_config), torch.randn(images, TOKENS, WIDTH)
        embeddings = model.embed_multimodal(pixel_values=pixels)
        kept = svdprune_ext.prune(pixels, 5).tokens
        assert torch.equal(embeddings, model.multi_modal_projector(kept))
        assert embeddings.shape[0] * embeddings.shape[1] == ids.count(IMAGE)


def test_what_vllm_caches_for_an_image_depends_on_what_is_kept(vllm):
    register()
    info_class = load(vllm.ModelRegistry).made_by[1]
    settings = ({"keep": 5}, {"keep": 6}, {"keep": 5, "center": True})
    assert len({info_class(config(**given)).model_id for given in settings}) == 3


def test_pixtral_is_refused(vllm):
    register()
    info = load(vllm.ModelRegistry).made_by[1](config(keep=5))
    info.hf_config.vision_config.model_type = "pixtral"
    with pytest.raises(ValueError, match="CLIP or SigLIP, got 'pixtral'"):
        info.get_num_image_tokens(image_width=28, image_height=28)


def test_a_vllm_without_what_is_overridden_is_refused_when_the_model_is_asked_for(
    vllm, monkeypatch
):
    register()
    monkeypatch.delattr(Llava, "_process_image_pixels")
    with pytest.raises(ImportError, match="must have _process_image_pixels"):
        load(vllm.ModelRegistry)


def test_a_vllm_that_lets_the_hugging_face_processor_write_placeholders_is_refused(
    vllm, monkeypatch
):
    register()
    monkeypatch.setattr(Processor, "_hf_processor_applies_updates", None, raising=False)
    with pytest.raises(ImportError, match=r"must be of version 0.29 or later"):
        load(vllm.ModelRegistry)


@pytest.mark.parametrize("state", ["missing", "no registry", "registry fails"])
def test_another_api_is_one_log_line_and_no_more(vllm, state, monkeypatch, caplog):
    if state == "missing":
        monkeypatch.setitem(sys.modules, "vllm", None)
    elif state == "no registry":
        monkeypatch.delattr(vllm, "ModelRegistry")
    else:
        monkeypatch.setattr(Registry, "register_model", None)
    with caplog.at_level(logging.WARNING):
        register()
        register()
    (record,) = caplog.records
    assert f"{ARCHITECTURE} is not available in this vLLM" in record.getMessage()


def test_the_entry_point_is_declared_and_imports_no_vllm():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (target,) = project["entry-points"]["vllm.general_plugins"].values()
    module, name = target.split(":")
    assert getattr(importlib.import_module(module), name) is vllm_plugin.register
    code = f"import sys, {module}; assert not any(m.split('.')[0] == 'vllm' for m in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_settings_come_from_hf_overrides_then_the_environment():
    assert settings_of(config(), {}) == PruneSettings()
    environment = {"SVDPRUNE_KEEP": "64", "SVDPRUNE_VARIANCE": "0.8", "SVDPRUNE_CENTER": "true"}
    assert settings_of(config(), environment) == PruneSettings(64, 0.8, center=True)
    overridden = config(keep=16, variance=1, solver="eigh")
    assert settings_of(overridden, environment) == PruneSettings(16, 1, center=True, solver="eigh")


@pytest.mark.parametrize(
    ("given", "environment", "message"),
    [
        ({"keep": 0}, {}, "keep must be an int from 1 on, got 0"),
        ({"keep": True}, {}, "keep must be an int from 1 on, got True"),
        ({"keep": "32"}, {}, "keep must be an int from 1 on, got '32'"),
        ({"variance": 1.5}, {}, r"variance must be in \(0, 1\], got 1.5"),
        ({"center": "no"}, {}, "center must be true or false, got 'no'"),
        ({"kept": 3}, {}, "must hold keep, variance, center, solver, select only, got kept"),
        ({"select": "best"}, {}, "select must be topk or pivoted, got 'best'"),
        (
            {"select": "pivoted", "variance": 0.9},
            {},
            "variance, solver must be left out for select pivoted",
        ),
        ({}, {"SVDPRUNE_KEEP": "many"}, "SVDPRUNE_KEEP must be of type int, got 'many'"),
        ({}, {"SVDPRUNE_CENTER": "maybe"}, "SVDPRUNE_CENTER must be of type bool, got 'maybe'"),
    ],
)
def test_wrong_settings_are_refused(given, environment, message):
    with pytest.raises(ValueError, match=f"svdprune_ext: .*{message}"):
        settings_of(config(**given), environment)


def test_more_than_the_tower_gives_cannot_be_kept():
    assert PruneSettings(keep=TOKENS).tokens(TOKENS) == TOKENS
    with pytest.raises(ValueError, match=r"keep must be in \[1, 16\].* got 17"):
        PruneSettings(keep=17).tokens(TOKENS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_features_are_pruned_image_by_image(dtype):
    features = torch.randn(3, 40, 24, generator=torch.Generator().manual_seed(0)).to(dtype)
    kept = prune_features(features, PruneSettings(keep=6, variance=0.8, center=True))
    assert kept.shape == (3, 6, 24)
    for tile, rows in zip(features, kept, strict=True):
        assert torch.equal(rows, svdprune_ext.prune(tile, 6, variance=0.8, center=True).tokens)
    pivoted = prune_features(features, PruneSettings(keep=6, select="pivoted"))
    assert torch.equal(pivoted, svdprune_ext.prune(features, 6, select="pivoted").tokens)
