"""The demonstration end to end, on a tiny model."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from svdprune_ext import cli
from svdprune_ext.demo.agreement import check_agreement
from svdprune_ext.demo.bundle import num_vision_tokens
from svdprune_ext.demo.measure import PARTS, Run, prompt
from svdprune_ext.demo.photo import load_photo
from svdprune_ext.demo.random_llava import Shape, build_random_llava
from svdprune_ext.demo.run import run
from svdprune_ext.demo.settings import Settings, SettingsError
from svdprune_ext.demo.tables import printable
from svdprune_ext.reference import oracle_leverage, oracle_pivoted, oracle_topk

TINY = Shape(
    image=112,
    patch=14,
    vision_width=64,
    vision_layers=3,
    vision_heads=4,
    text_width=48,
    text_layers=2,
    text_heads=4,
    text_inner=96,
)
KEEP = 10


def demonstrate(tmp_path, **options):
    settings = Settings(keep=KEEP, max_new_tokens=3, rounds=1, out=tmp_path / "out", **options)
    console = Console(file=io.StringIO(), width=120)
    result = run(settings, console, TINY)
    return result, console.file.getvalue(), json.loads((settings.out / "demo.json").read_text())


@pytest.fixture(scope="module")
def demonstrated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    return folder, *demonstrate(folder)


def test_it_agrees_with_the_oracle_on_its_own_features(demonstrated):
    _, result, _, numbers = demonstrated
    assert result.pruned.features.shape == (TINY.num_tokens, TINY.vision_width)
    oracle = oracle_leverage(result.pruned.features, 0.9)
    assert numbers["indices"] == oracle_topk(oracle.scores, KEEP).tolist()
    assert numbers["rank"] == oracle.rank
    assert numbers["agreement"]["agrees"] is True
    assert numbers["agreement"]["top_k_overlap"] == KEEP
    assert numbers["agreement"]["rows_equal"] is True
    torch.testing.assert_close(
        torch.tensor(numbers["scores"], dtype=torch.float64), oracle.scores, atol=2e-4, rtol=0
    )


def test_both_runs_see_the_same_features(demonstrated):
    _, result, _, _ = demonstrated
    torch.testing.assert_close(result.full.features, result.pruned.features)
    assert len(result.full.projected) == TINY.num_tokens
    assert len(result.pruned.projected) == KEEP


def test_json_holds_every_part_and_share(demonstrated):
    _, _, _, numbers = demonstrated
    for way in ("all", "kept"):
        assert set(PARTS) < set(numbers["seconds"][way])
    assert numbers["seconds"]["all"]["pruning"] == 0
    assert numbers["seconds"]["kept"]["pruning"] > 0
    assert 0 < numbers["share"]["energy_of_rows"] <= numbers["share"]["energy_in_span"] <= 1 + 1e-9
    assert 0 < numbers["share"]["leverage"] <= 1
    assert numbers["num_tokens"] == TINY.num_tokens
    assert [8 * row + column for row, column in numbers["cells"]] == numbers["indices"]


def test_the_rule_pivoted(tmp_path):
    result, output, numbers = demonstrate(tmp_path, select="pivoted")
    oracle = oracle_pivoted(result.pruned.features, KEEP)
    assert numbers["indices"] == oracle.order.sort().values.tolist()
    assert numbers["rank"] == numbers["agreement"]["oracle_rank"] == oracle.rank == KEEP
    assert numbers["agreement"]["agrees"] is True
    assert (numbers["settings"]["select"], numbers["settings"]["variance"]) == ("pivoted", None)
    assert numbers["share"]["leverage"] is None
    assert numbers["share"]["energy_in_span"] == pytest.approx(sum(numbers["scores"]), abs=1e-5)
    for text in ("rule", "pivoted", "the rule in float64", "most energy added", "agrees"):
        assert text in output
    with Image.open(tmp_path / "out" / "demo.png") as picture:
        assert np.asarray(picture.convert("L")).std() > 20


def test_the_picture_is_there(demonstrated):
    folder, *_ = demonstrated
    with Image.open(folder / "out" / "demo.png") as picture:
        assert min(picture.size) > 1000
        # More than a blank page.
        assert np.asarray(picture.convert("L")).std() > 20


def test_tables_say_what_is_real(demonstrated):
    _, _, output, _ = demonstrated
    for text in ("means nothing", *PARTS, "agrees", "demo.png", f"{KEEP} of {TINY.num_tokens}"):
        assert text in output


def test_a_saved_checkpoint_and_a_photo_go_through_the_command(tmp_path):
    bundle = build_random_llava(TINY, seed=1, dtype=torch.float32)
    bundle.model.save_pretrained(tmp_path / "model")
    bundle.processor.save_pretrained(tmp_path / "model")
    photo = tmp_path / "photo [1].png"
    pixels = np.random.default_rng(0).integers(0, 255, (90, 150, 4), dtype=np.uint8)
    Image.fromarray(pixels, "RGBA").save(photo)
    arguments = ["demo", photo, "--model", tmp_path / "model", "--keep", KEEP, "--rounds", 1]
    arguments += ["--max-new-tokens", 2, "--out", tmp_path / "out"]
    result = CliRunner().invoke(cli.app, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    numbers = json.loads((tmp_path / "out" / "demo.json").read_text())
    assert numbers["photo"] == "photo [1].png"
    assert numbers["text_is_meaningful"] is True
    assert len(numbers["indices"]) == KEEP

    too_many = [*arguments[:4], "--keep", TINY.num_tokens + 1]
    result = CliRunner().invoke(cli.app, [str(a) for a in too_many])
    assert result.exit_code == 2
    assert result.stderr.startswith("svdprune demo: --keep: must be in [1, 64]")


def test_keeping_all_tokens(tmp_path):
    settings = Settings(keep=TINY.num_tokens, max_new_tokens=2, rounds=1, out=tmp_path)
    result = run(settings, Console(file=io.StringIO()), TINY)
    assert result.agreement.agrees
    assert result.full.text == result.pruned.text


def test_bfloat16(tmp_path):
    result, _, numbers = demonstrate(tmp_path, dtype="bfloat16")
    assert result.pruned.features.dtype == torch.bfloat16
    assert numbers["dtype"] == "bfloat16"
    assert numbers["agreement"]["agrees"] is True


def test_keep_is_checked_before_the_model_is_built(tmp_path, monkeypatch):
    monkeypatch.setattr("svdprune_ext.demo.run.build_random_llava", None)
    with pytest.raises(SettingsError, match=r"--keep: must be in \[1, 64\]"):
        run(Settings(keep=65, out=tmp_path), Console(file=io.StringIO()), TINY)


def test_a_question_that_asks_for_another_image_is_refused(tmp_path):
    with pytest.raises(SettingsError, match="--question: must be without <image>"):
        demonstrate(tmp_path, question="What is <image>?")


def test_weights_follow_the_seed():
    models = [build_random_llava(TINY, seed, torch.float32).model for seed in (0, 0, 1)]
    first, same, other = (torch.cat([p.flatten() for p in m.parameters()]) for m in models)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert first.isfinite().all()


def test_the_default_shape_is_llava_1_5s():
    assert Shape().num_tokens == 576
    assert num_vision_tokens(build_random_llava(TINY, 0, torch.float32).model.config) == 64


def test_the_prompt_uses_a_chat_template_where_there_is_one():
    processor = build_random_llava(TINY, 0, torch.float32).processor
    assert prompt(processor, "Why?") == "USER: <image>\nWhy? ASSISTANT:"
    processor.chat_template = (
        "{% for m in messages %}{% for c in m.content %}"
        "{{ '<image>' if c.type == 'image' else c.text }}{% endfor %}{% endfor %}!"
    )
    assert prompt(processor, "Why?") == "<image>Why?!"


def test_the_default_photo_needs_no_file():
    photo, name = load_photo(None)
    assert photo.mode == "RGB"
    assert photo.size == (512, 512)
    assert "astronaut" in name


@pytest.mark.parametrize("name", ["photo.png", "photo.tif", "photo.pgm"])
def test_greys_of_16_bits_keep_their_shades(tmp_path, name):
    shades = np.arange(256, dtype=np.uint8).reshape(16, 16)
    Image.fromarray(shades.astype(np.uint16) * 257).save(tmp_path / name)
    photo, _ = load_photo(tmp_path / name)
    assert np.array_equal(np.asarray(photo), np.stack([shades] * 3, -1))


def test_floating_point_greys_are_refused(tmp_path):
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "photo.tif")
    with pytest.raises(SettingsError, match="floating-point"):
        load_photo(tmp_path / "photo.tif")


def test_printable_escapes_control_characters():
    assert printable("a\x07b\n") == r"a\x07b\n"
    assert printable("") == "(nothing)"


@pytest.fixture
def good_run():
    x = torch.randn(40, 24, generator=torch.Generator().manual_seed(3))
    oracle = oracle_leverage(x, 0.9)
    indices = oracle_topk(oracle.scores, 8)
    return Run(
        seconds=dict.fromkeys(PARTS, 0.0),
        text="",
        features=x,
        projected=x[indices],
        pixels=torch.zeros(3, 4, 4),
        indices=indices,
        scores=oracle.scores.float(),
        rank=oracle.rank,
    )


def test_agreement_holds_for_the_oracles_own_result(good_run):
    agreement = check_agreement(good_run, Settings())
    assert agreement.agrees
    assert agreement.overlap == agreement.keep == 8


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda r: replace(r, rank=r.rank + 1), "rank"),
        (lambda r: replace(r, rank=r.rank - 2), "rank"),
        (lambda r: replace(r, scores=r.scores + 0.01), "scores differ"),
        (lambda r: replace(r, projected=r.projected + 1e-6), "kept rows"),
        (
            lambda r: replace(
                r,
                indices=r.scores.argsort()[:8].sort().values,
                projected=r.features[r.scores.argsort()[:8].sort().values],
            ),
            "other tokens",
        ),
    ],
)
def test_agreement_notices(good_run, change, reason):
    agreement = check_agreement(change(good_run), Settings())
    assert not agreement.agrees
    assert any(reason in given for given in agreement.reasons)


PIVOTED = Settings(select="pivoted")


@pytest.fixture
def pivoted_run(good_run):
    oracle = oracle_pivoted(good_run.features, 8)
    scores = torch.zeros(40).index_put((oracle.order,), oracle.shares.float())
    indices = oracle.order.sort().values
    return replace(
        good_run,
        indices=indices,
        scores=scores,
        rank=oracle.rank,
        projected=good_run.features[indices],
    )


def test_agreement_of_pivoted_holds_for_the_oracles_own_result(pivoted_run):
    agreement = check_agreement(pivoted_run, PIVOTED)
    assert agreement.agrees
    assert (agreement.overlap, agreement.gap) == (8, None)
    assert agreement.oracle_indices.tolist() == pivoted_run.indices.tolist()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda r: replace(r, rank=7), "rank"),
        (lambda r: replace(r, scores=r.scores + 1e-3), "scores differ"),
        (lambda r: replace(r, projected=r.projected + 1e-6), "kept rows"),
        (lambda r: replace(r, indices=(r.indices + 1) % 40), "other tokens"),
    ],
)
def test_agreement_of_pivoted_notices(pivoted_run, change, reason):
    agreement = check_agreement(change(pivoted_run), PIVOTED)
    assert not agreement.agrees
    assert any(reason in given for given in agreement.reasons)


@pytest.mark.parametrize(("length", "agrees"), [(1 - 1e-7, True), (0.9, False)])
def test_agreement_of_pivoted_allows_what_cannot_be_told_apart(pivoted_run, length, agrees):
    # Two picks of three orthogonal tokens: the oracle takes 0 and 1.
    lengths = torch.tensor([2.0, 1.0, length])
    x, kept = torch.diag(lengths), torch.tensor([0, 2])
    scores = lengths.square() / lengths.square().sum() * torch.tensor([1, 0, 1])
    run = replace(pivoted_run, features=x, projected=x[kept], indices=kept, scores=scores, rank=2)
    agreement = check_agreement(run, PIVOTED)
    assert agreement.agrees == agrees
    assert agreement.overlap == (2 if agrees else 1)
