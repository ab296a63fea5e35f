"""The plugin in vLLM itself: it answers as transformers does with ``svdprune_ext.apply``.

vLLM runs the package's tiny VLM on the CPU, in this process. Skipped where vLLM is not installed:
docs/vllm.md says how to set up an environment for it.
"""

import gc
import os
import shutil
from importlib.util import find_spec

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import svdprune_ext
from svdprune_ext import tiny_vlm
from svdprune_ext.tiny_vlm.loading import SHIPPED
from svdprune_ext.tiny_vlm.samples import sample
from svdprune_ext.tiny_vlm.splits import TEST
from svdprune_ext.vllm_plugin import ARCHITECTURE

pytestmark = pytest.mark.skipif(find_spec("vllm") is None, reason="vllm is not installed")
NEW, TOKENS = 6, 144
PICTURES = [Image.fromarray(sample(TEST, number).image) for number in range(3)]
# Prompts with the numbers of their pictures: one, none, two side by side, one that was seen before.
PROMPTS = (
    ("<image> what colour is the circle ?", [0]),
    ("is there a sign ?", []),
    ("<image> <image> how many squares are there ?", [1, 2]),
    ("<image> what does the sign say ?", [1]),
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """The tiny VLM with its weights named as in the published LLaVA-1.5, which vLLM expects."""
    folder = tmp_path_factory.mktemp("vllm") / "llava"
    shutil.copytree(SHIPPED, folder)
    weights = load_file(folder / "model.safetensors")
    named = {
        k.replace("vision_tower.", "vision_tower.vision_model."): w for k, w in weights.items()
    }
    save_file(named, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module", params=[None, 16, 5], ids=["unpruned", "16", "5"])
def served(request, checkpoint):
    """An engine, and how many tokens of an image it keeps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # or apply_model could not be called
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", os.environ.get("VLLM_CPU_KVCACHE_SPACE", "1"))
        from vllm import LLM
        from vllm.distributed import cleanup_dist_env_and_memory

        ours = {"architectures": [ARCHITECTURE], "svdprune": {"keep": request.param}}
        engine = LLM(
            str(checkpoint),
            dtype="float32",
            max_model_len=512,
            enforce_eager=True,
            limit_mm_per_prompt={"image": 2},
            hf_overrides=ours if request.param else {},
        )
        yield engine, request.param or TOKENS
        del engine
        gc.collect()
        cleanup_dist_env_and_memory()


@pytest.fixture(scope="module")
def in_transformers():
    model, processor = tiny_vlm.load()
    model.generation_config.eos_token_id = None
    return model, processor


def inputs_of(processor, text, pictures):
    images = [PICTURES[number] for number in pictures] or None
    return processor(text=text, images=images, return_tensors="pt")


def test_its_answers_are_those_of_apply(served, in_transformers):
    from vllm import SamplingParams

    engine, keep = served
    model, processor = in_transformers
    prompts = [
        {"prompt": text, "multi_modal_data": {"image": [PICTURES[n] for n in pictures]}}
        if pictures
        else {"prompt": text}
        for text, pictures in PROMPTS
    ]
    greedy = SamplingParams(temperature=0, max_tokens=NEW, ignore_eos=True, logprobs=1)
    for (text, pictures), answer in zip(PROMPTS, engine.generate(prompts, greedy), strict=True):
        inputs = inputs_of(processor, text, pictures)
        with svdprune_ext.apply(model, keep=keep, positions="compact"):
            expected = model.generate(
                **inputs,
                max_new_tokens=NEW,
                do_sample=False,
                return_dict_in_generate=True,
                output_logits=True,
            )
        length = inputs["input_ids"].shape[1]
        assert len(answer.prompt_token_ids) == length - len(pictures) * (TOKENS - keep)
        ids = answer.outputs[0].token_ids
        assert list(ids) == expected.sequences[0, length:].tolist()
        given = [
            step[token].logprob for step, token in zip(answer.outputs[0].logprobs, ids, strict=True)
        ]
        wanted = [float(step[0].log_softmax(-1).max()) for step in expected.logits]
        assert given == pytest.approx(wanted, abs=1e-3)


def test_it_keeps_the_tokens_that_apply_keeps(served, in_transformers):
    engine, keep = served
    model, processor = in_transformers
    inputs = inputs_of(processor, "<image> <image> ?", [1, 2])
    pixels = inputs["pixel_values"]
    with torch.no_grad():
        embeddings = model.get_image_features(pixels, return_dict=True).pooler_output
        with svdprune_ext.apply(model, keep=keep) as handle:
            model(**inputs)
        (served_embeddings,) = engine.apply_model(lambda m: m.embed_multimodal(pixel_values=pixels))
    for rows, kept, ours in zip(embeddings, handle.last.indices, served_embeddings, strict=True):
        assert len(kept) == keep
        torch.testing.assert_close(ours, rows[kept], atol=1e-4, rtol=1e-4)
