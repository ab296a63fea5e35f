"""``svdprune estimate``: the arithmetic, held against torch's own count on running models."""

import json

import pytest
import torch
import transformers
from tiny_configs import TEXT, TINY, TOWER
from tiny_vlms import IMAGE as IMAGE_TOKEN
from tiny_vlms import batch
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

import svdprune_ext
from svdprune_ext import cli
from svdprune_ext.estimate import estimate
from svdprune_ext.vlm_shapes import shape_of

QWEN_TOWER = {
    "depth": 4,
    "hidden_size": 32,
    "num_heads": 2,
    "intermediate_size": 40,
    "patch_size": 14,
    "window_size": 56,
    "fullatt_block_indexes": [1, 3, 7],  # there is no block 7
    "out_hidden_size": 48,
}
IDS = {"image_token_id": IMAGE_TOKEN}
TOKENS = 16  # of the tiny LLaVA's images
LLAVA = TINY["LlavaForConditionalGeneration"]


def llava(heads=2, tied=False, tower=transformers.CLIPVisionConfig, **options):
    text = transformers.LlamaConfig(**{**TEXT, "num_key_value_heads": heads})
    config = transformers.LlavaConfig(
        vision_config=tower(**TOWER, **options),
        text_config=text,
        image_seq_length=TOKENS,
        tie_word_embeddings=tied,
        **IDS,
    )
    return config, None, {"pixel_values": torch.randn(1, 3, 28, 28)}


def llava_on(text):
    config, _, inputs = llava()
    config.text_config = text
    return config, None, inputs


def llava_full():
    config, _, inputs = llava()
    config.vision_feature_select_strategy = "full"
    config.vision_feature_layer = [-2, -1]
    return config, None, inputs


def siglip_llava():
    config, _, inputs = llava(tower=transformers.SiglipVisionConfig, vision_use_head=False)
    config.vision_feature_select_strategy = "full"
    return config, None, inputs


def llava_next(height=40, width=50, tiles=5):
    config = transformers.LlavaNextConfig(
        vision_config=transformers.CLIPVisionConfig(**TOWER),
        text_config=transformers.MistralConfig(**TEXT, sliding_window=None),
        image_grid_pinpoints=[[28, 56], [56, 28], [56, 56], [28, 84]],
        **IDS,
    )
    sizes = torch.tensor([[height, width]])
    pixels = torch.randn(1, tiles, 3, 28, 28)
    return config, (height, width), {"pixel_values": pixels, "image_sizes": sizes}


def gemma3():
    tower = transformers.SiglipVisionConfig(**TOWER, vision_use_head=False)
    text = transformers.Gemma3TextConfig(**TEXT, head_dim=16)  # heads x 16 is not the width
    config = transformers.Gemma3Config(
        text_config=text, vision_config=tower, mm_tokens_per_image=4, **IDS
    )
    return config, None, {"pixel_values": torch.randn(1, 3, 28, 28)}


def qwen2_5_vl():
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 2, 2]}
    config = transformers.Qwen2_5_VLConfig(
        text_config={**TEXT, "rope_parameters": rope},
        vision_config=QWEN_TOWER,
        video_token_id=101,
        **IDS,
    )
    grid = torch.tensor([[1, 6, 10]])  # cut by windows of 4 x 4 patches
    return config, (84, 140), {"pixel_values": torch.randn(60, 1176), "image_grid_thw": grid}


MODELS = {
    "LLaVA, grouped queries": llava,
    "LLaVA, a key for each query": lambda: llava(heads=4),
    "LLaVA, tied head": lambda: llava(tied=True),
    "LLaVA, [CLS] kept, two layers read": llava_full,
    "LLaVA, SigLIP": siglip_llava,
    "LLaVA on Qwen2": lambda: llava_on(transformers.Qwen2Config(**TEXT)),
    "LLaVA on Qwen3": lambda: llava_on(transformers.Qwen3Config(**TEXT, head_dim=16)),
    "LLaVA-NeXT, padded above": llava_next,
    "LLaVA-NeXT, padded aside": lambda: llava_next(75, 60),
    "LLaVA-NeXT, three tiles": lambda: llava_next(30, 99, tiles=4),
    "Gemma 3": gemma3,
    "Qwen2.5-VL": qwen2_5_vl,
}


def counted(model, inputs):
    """FLOPs of all and of the language model, by torch. Eager attention: sdpa on the CPU is missed."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(**inputs, logits_to_keep=1)
    counts = {name: sum(ops.values()) for name, ops in counter.get_flop_counts().items()}

    def of(*modules):
        return sum(flops for name, flops in counts.items() if name.endswith(modules))

    # In transformers 5.17 the angles of the positions come from a matrix product too.
    angles = of("language_model.rotary_emb")
    return counts["Global"] - angles, of("language_model", "lm_head") - angles


@pytest.mark.parametrize("name", MODELS)
def test_flops_are_those_torch_counts(name):
    config, image_size, inputs = MODELS[name]()
    config._attn_implementation = "eager"
    model = transformers.AutoModelForImageTextToText.from_config(config).eval()
    shape = shape_of(config, image_size)
    image = [IMAGE_TOKEN] * (shape.vision_tokens + shape.separators)
    ids = torch.tensor([[1, 2, *image, 3, 4, 5]])
    total, language = counted(model, {**inputs, "input_ids": ids})
    cost = estimate(shape, text_tokens=5)
    assert (cost.prompt_tokens, cost.total, cost.prefill) == (ids.shape[1], total, language)


def test_pruned_flops_are_those_torch_counts_of_a_pruned_model():
    model = LLAVA.build("eager")
    inputs = batch(model, (3, "image", 5), (3, "image", 5))
    with svdprune_ext.apply(model, keep=5):
        total, language = counted(model, inputs)
    text_tokens = inputs["input_ids"].shape[1] - TOKENS
    cost = estimate(shape_of(model.config), 5, text_tokens=text_tokens, batch=2)
    assert (cost.total, cost.prefill) == (total, language)


def test_the_cache_is_what_transformers_caches():
    model = LLAVA.build()
    inputs = batch(model, (3, "image", 5))
    with svdprune_ext.apply(model, keep=5), torch.no_grad():
        cache = model(**inputs).past_key_values
    held = sum(t.nbytes for layer in cache.layers for t in (layer.keys, layer.values))
    cost = estimate(
        shape_of(model.config),
        5,
        text_tokens=inputs["input_ids"].shape[1] - TOKENS,
        dtype="float32",
    )
    assert cost.kv_cache == held


@pytest.mark.parametrize(
    ("keep", "language", "less", "less_in_all", "less_before_the_projector"),
    [
        (192, 3.350, 60.6, 57.8, 58.0),
        (128, 2.506, 70.5, 67.3, 67.5),
        (64, 1.667, 80.4, 76.7, 77.0),
        (32, 1.248, 85.3, 81.4, 81.7),
        (16, 1.040, 87.8, 83.8, 84.0),
    ],
)
def test_llava_1_5_7b(keep, language, less, less_in_all, less_before_the_projector):
    # The defaults of LlavaConfig are LLaVA-1.5-7B.
    shape = shape_of(transformers.LlavaConfig())
    full, cost = estimate(shape), estimate(shape, keep, after_projector=True)

    def saved(after, before):
        return round(100 * (1 - after / before), 1)

    assert round(full.prefill / 1e12, 3) == 8.504
    assert round((full.vision + full.projector) / 1e12, 3) == 0.406
    assert round(cost.prefill / 1e12, 3) == language
    assert saved(cost.prefill, full.prefill) == less
    assert saved(cost.total, full.total) == less_in_all
    assert saved(estimate(shape, keep).total, full.total) == less_before_the_projector


@pytest.mark.parametrize(
    ("keep", "text_tokens", "with_vision"),
    [(32, 68, False), (32, 39, True), (16, 87, False), (16, 58, True)],
)
def test_settings_that_give_the_published_reduction(keep, text_tokens, with_vision):
    shape = shape_of(transformers.LlavaConfig())
    full, cost = (estimate(shape, k, text_tokens=text_tokens) for k in (None, keep))
    before, after = (full.total, cost.total) if with_vision else (full.prefill, cost.prefill)
    assert round(100 * (1 - after / before), 1) == 84.8


def run(*arguments):
    return CliRunner(env={"COLUMNS": "200"}).invoke(cli.app, ["estimate", *map(str, arguments)])


def test_the_command_prints_a_table_and_json(tmp_path):
    transformers.LlavaConfig().save_pretrained(tmp_path)
    file = (tmp_path / "config.json").rename(tmp_path / "llava.json")
    arguments = ("--model", file, "--keep", 32, "--keep", 64, "--batch", 2)
    table = run(*arguments)
    assert table.exit_code == 0, table.output
    for text in ("17.009", "2.497", "85.3 %", "96.0", "80.4 %"):
        assert text in table.output
    numbers = json.loads(run(*arguments, "--dtype", "float32", "--json").stdout)
    assert [p["vision_tokens"] for p in numbers["pruned"]] == [32, 64]
    assert numbers["pruned"][0]["kv_cache"] == 2 * 96 * 2**20
    assert 0.7 < numbers["pruned"][0]["prefill_share"] < numbers["unpruned"]["prefill_share"] < 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--keep", 577), "--keep: must be in [1, 576], got 577"),
        (("--keep", 0), "--keep: must be in [1, 576], got 0"),
        (("--batch", 0), "--batch: must be at least 1"),
        (("--text-tokens", -1), "--text-tokens: must be at least 0"),
        (("--dtype", "int8"), "--dtype: must be one of float32"),
        (("--image-size", "large"), "--image-size: must be HEIGHTxWIDTH"),
        (("--image-size", "336x336"), "--image-size: llava resizes every image alike"),
    ],
)
def test_a_bad_option_is_one_line(arguments, message, tmp_path):
    transformers.LlavaConfig().save_pretrained(tmp_path)
    result = run("--model", tmp_path, *arguments)
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"svdprune estimate: {message}")


def _without(config, part, **changes):
    for name, value in changes.items():
        setattr(getattr(config, part), name, value)
    return config


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (transformers.LlamaConfig, "must be of type llava, llava_next, .*got 'llama'"),
        (
            transformers.LlavaNextConfig,
            "--image-size: must be HEIGHTxWIDTH .* for llava_next, got None",
        ),
        (
            lambda: transformers.LlavaConfig(text_config=transformers.OPTConfig()),
            "text_config.model_type must be one of .*'opt'",
        ),
        (
            lambda: _without(transformers.LlavaConfig(), "vision_config", patch_size=None),
            "must have vision_config.patch_size, and has no patch_size",
        ),
        (
            lambda: _without(transformers.LlavaConfig(), "text_config", hidden_size=0),
            "text_config.hidden_size: must be a positive int, got 0",
        ),
        (
            lambda: transformers.LlavaConfig(vision_config=transformers.PixtralVisionConfig()),
            "vision_config must be of CLIP or SigLIP, got 'pixtral'",
        ),
        (
            lambda: transformers.LlavaConfig(vision_config=transformers.SiglipVisionConfig()),
            "vision_use_head must be false",
        ),
    ],
)
def test_a_configuration_that_is_not_understood_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        shape_of(make())


def test_a_configuration_whose_image_fits_nowhere_is_refused():
    config = transformers.LlavaNextConfig(image_grid_pinpoints=[])
    with pytest.raises(ValueError, match="image_grid_pinpoints: must be pairs of height and width"):
        shape_of(config, (672, 1008))
    config = _without(transformers.Qwen2_5_VLConfig(), "vision_config", window_size=27)
    with pytest.raises(ValueError, match="window_size: must be at least 28, got 27"):
        shape_of(config, (672, 1008))


def test_a_prompt_beyond_the_sliding_window_is_refused():
    config = gemma3()[0]
    config.text_config.sliding_window = 16
    assert estimate(shape_of(config), text_tokens=12).prompt_tokens == 16
    with pytest.raises(ValueError, match="fits the window of 16, got 17"):
        estimate(shape_of(config), text_tokens=13)


def test_a_model_that_is_not_here_is_refused(tmp_path):
    result = run("--model", tmp_path / "missing")
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("svdprune estimate: --model: must be a folder, a config.json")
    assert "no such id in the cache" in line
    assert "connect" not in line


def test_a_folder_without_a_configuration_is_refused(tmp_path):
    result = run("--model", tmp_path)
    assert result.exit_code == 2
    assert result.stderr.endswith("(the folder has no config.json)\n")


def test_a_broken_configuration_is_refused(tmp_path):
    broken = {"model_type": "llava", "text_config": {"model_type": "llama", "hidden_size": "x"}}
    (tmp_path / "config.json").write_text(json.dumps(broken))
    result = run("--model", tmp_path)
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("svdprune estimate: --model: must be a folder, a config.json")
