"""``svdprune eval``: the fast way's answers, cells, energy, and a run from end to end."""

from __future__ import annotations

import io
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import svdprune_ext
from bench.tiny_vlm.build import TOKENS, build_model, build_processor
from bench.tiny_vlm.train import save
from svdprune_ext import cli, methods, tiny_vlm
from svdprune_ext.evaluation import (
    PRESETS,
    Cell,
    EvalSettings,
    Series,
    answer,
    answering,
    prepare,
    run,
)
from svdprune_ext.evaluation.answering import features
from svdprune_ext.evaluation.energy import span_shares
from svdprune_ext.evaluation.records import Records
from svdprune_ext.reference import oracle_leverage, oracle_topk

exam_module = sys.modules["svdprune_ext.evaluation.exam"]
run_module = sys.modules["svdprune_ext.evaluation.run"]
IMAGES = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    torch.manual_seed(0)
    save(build_model(), build_processor(), folder)
    return folder


@pytest.fixture(scope="module")
def loaded(folder):
    return tiny_vlm.load(folder)


@pytest.fixture(scope="module")
def exam(loaded):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exam_module, "_PART", 3)  # the last part is a smaller one
        return prepare(loaded[1], tiny_vlm.TEST, IMAGES, batch=8)


@pytest.mark.parametrize(
    ("keep", "arguments"),
    [
        (None, {}),
        (16, {}),
        (16, {"positions": "original"}),
        (16, {"features": "projector", "center": True}),
        (TOKENS, {"coverage": 0.5}),
        (16, {"method": "divprune"}),
        (16, {"method": "cls_attention"}),
        (16, {"method": "visionzip", "options": {"merge": "add"}}),
        (16, {"select": "pivoted"}),
        (16, {"method": "fastv"}),
    ],
)
def test_the_answers_are_those_of_processor_apply_and_generate(loaded, exam, keep, arguments):
    model, processor = loaded
    answered = answer(model, processor, exam, Cell(keep, arguments))
    if keep is None:
        plain = tiny_vlm.evaluate(model, processor, tiny_vlm.TEST, IMAGES)
    else:
        with svdprune_ext.apply(model, keep, **arguments):
            plain = tiny_vlm.evaluate(model, processor, tiny_vlm.TEST, IMAGES)
    assert [(a.image, a.question) for a in plain.answers] == list(exam.asked)
    assert answered.given == tuple(a.given for a in plain.answers)
    assert len(set(answered.given)) > 3
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(answering, "_looks_at_questions", lambda cell: True)
        assert answer(model, processor, exam, Cell(keep, arguments)).given == answered.given
    assert "get_image_features" not in vars(model.base_model)


def test_a_method_within_the_decoder_reports_what_its_layers_see(loaded, exam):
    model, processor = loaded
    arguments = {"method": "sparsevlm", "version": "2.0", "options": {"layers": [1]}}
    (cell,) = Series("", "", arguments).cells(16)
    answered = answer(model, processor, exam, cell)
    with svdprune_ext.apply(
        model, method="sparsevlm", tokens=[16], version="2.0", options={"layers": [1]}
    ):
        plain = tiny_vlm.evaluate(model, processor, tiny_vlm.TEST, IMAGES)
    assert answered.given == tuple(a.given for a in plain.answers)
    assert answered.kept is None
    assert answered.average == (2 * TOKENS + 2 * 16) / 4


def test_the_exam_is_what_the_processor_makes(loaded, exam):
    _, processor = loaded
    for number in range(IMAGES):
        image = tiny_vlm.sample(tiny_vlm.TEST, number).image
        expected = processor.image_processor([image], return_tensors="pt")["pixel_values"][0]
        assert torch.equal(exam.pixels[number], expected)
    batches = [batch for part in exam.parts for batch in part.batches]
    places = sorted(place for batch in batches for place in batch.places)
    assert places == list(range(len(exam.asked)))
    assert all(len(batch.places) <= 8 and batch.attention_mask.all() for batch in batches)
    assert len(exam.prefix) == 1 + TOKENS
    assert prepare(processor, tiny_vlm.TEST, IMAGES).digest == exam.digest
    assert prepare(processor, tiny_vlm.VALIDATION, IMAGES).digest != exam.digest


def test_another_layer_chooses_and_the_models_own_is_kept(loaded, exam):
    model, processor = loaded
    answered = answer(model, processor, exam, Cell(16, {}, scored_layer=-1))
    with torch.no_grad():
        tower = model.model.vision_tower(exam.pixels, output_hidden_states=True)
    for kept, last in zip(answered.kept, tower.hidden_states[-1][:, 1:], strict=True):
        expected = oracle_topk(oracle_leverage(last, 0.9).scores, 16)
        assert kept.nonzero().squeeze(-1).tolist() == expected.tolist()
    own = answer(model, processor, exam, Cell(16, {}, scored_layer=-2))
    assert own.given == answer(model, processor, exam, Cell(16)).given
    with pytest.raises(ValueError, match="scored_layer must be None for visionzip"):
        answer(model, processor, exam, Cell(16, {"method": "visionzip"}, scored_layer=-1))


def test_a_seed_draws_for_each_image_anew(loaded, exam):
    one, two = Series("random", "", {"method": "random"}, seeds=(0, 1)).cells(16)
    first = answer(*loaded, exam, one).kept
    assert torch.equal(answer(*loaded, exam, one).kept, first)
    assert not torch.equal(answer(*loaded, exam, two).kept, first)
    assert not torch.equal(first[0], first[1])


def test_energy_by_hand(loaded, exam):
    x = torch.tensor([[[3.0, 0, 0], [0, 4.0, 0], [0, 0, 0], [3.0, 4.0, 12.0]]])
    for kept, expected in (([1, 0, 0, 0], 18), ([1, 1, 0, 0], 50), ([1, 1, 1, 0], 50)):
        share = span_shares(x, torch.tensor([kept], dtype=torch.bool))
        assert share.item() == pytest.approx(expected / x.square().sum().item())
    real = features(loaded[0], exam)
    kept = answer(*loaded, exam, Cell(16)).kept
    shares = span_shares(real, kept)
    assert kept.sum(1).tolist() == [16] * IMAGES
    for image, mask, share in zip(real.double(), kept, shares, strict=True):
        basis = torch.linalg.qr(image[mask].T).Q
        projected = (image @ basis).square().sum() / image.square().sum()
        assert share.item() == pytest.approx(projected.item())


def test_presets_cover_the_methods_and_fit_the_budgets():
    compared = {s.arguments.get("method", "svd") for s in PRESETS["methods"](3)}
    assert compared == {n for n in methods.available() if methods.get(n).attention != "decoder"}
    assert Series("", "").budgets_within(144, (192, 144, 64)) == [64]
    assert Series("", "", {"coverage": 0.5}).budgets_within(144, (64,)) == [144]
    for preset in PRESETS.values():
        named = [(s.group, s.name) for s in preset(2)]
        assert len(set(named)) == len(named)


def small(folder, out, **options):
    settings = {"preset": "quick", "images": IMAGES, "seeds": 1, "out": out, **options}
    return EvalSettings(model=folder, **settings)


def test_an_interrupted_run_goes_on_where_it_was(folder, tmp_path, monkeypatch):
    real, calls = run_module.answer, []

    def until_the_third(*arguments):
        if len(calls) == 3:
            raise KeyboardInterrupt
        calls.append(arguments)
        return real(*arguments)

    monkeypatch.setattr(run_module, "answer", until_the_third)
    with pytest.raises(KeyboardInterrupt):
        run(small(folder, tmp_path), Console(file=io.StringIO()))
    records = tmp_path / "records.jsonl"
    assert len(records.read_text().splitlines()) == 3
    with records.open("a") as file:
        file.write('{"key": {"cell"')  # as a process killed while writing leaves it

    monkeypatch.setattr(run_module, "answer", lambda *a: calls.append(a) or real(*a))
    console = Console(file=io.StringIO(), width=160)
    summary = run(small(folder, tmp_path), console)
    assert len(calls) == 1 + 2 * 5  # all tokens, and five ways at two budgets, each once
    whole = run(small(folder, tmp_path / "anew"), Console(file=io.StringIO()))
    assert strip(summary) == strip(whole)
    for suffix in (".json", ".md", ".png"):
        assert (tmp_path / f"quick{suffix}").stat().st_size > 500
    assert json.loads((tmp_path / "quick.json").read_text()) == summary
    assert "max-min diversity" in console.file.getvalue()
    assert "| random | 32 |" in (tmp_path / "quick.md").read_text()


def test_a_record_behind_a_broken_line_is_found_again(tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_text('{"key": {"cell"')
    Records(path).add({"cell": 1}, {"kept": 32})
    assert Records(path).find({"cell": 1}) == {"key": {"cell": 1}, "kept": 32}


def strip(summary):
    rows = [{k: v for k, v in r.items() if k != "seconds"} for r in summary["rows"]]
    return rows, summary["unpruned"]["accuracy"]


def test_ablations_compare_an_adaptive_budget_with_a_fixed_one(folder, tmp_path, monkeypatch):
    chosen = [s for s in PRESETS["ablations"](1) if s.adaptive][1:2]
    monkeypatch.setitem(run_module.PRESETS, "ablations", lambda seeds: chosen)
    settings = small(folder, tmp_path, preset="ablations", images=2)
    adaptive, fixed = run(settings, Console(file=io.StringIO()))["rows"]
    assert fixed["keep"] == round(adaptive["kept"])
    assert fixed["arguments"] == {}
    assert adaptive["arguments"] == {"coverage": 0.5}
    assert f"fixed, {fixed['keep']} tokens" in (tmp_path / "ablations.md").read_text()


def test_a_preset_takes_the_budgets_asked_for(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(run_module.PRESETS, "quick", lambda seeds: PRESETS["methods"](1)[:1])
    console = Console(file=io.StringIO())
    rows = run(small(folder, tmp_path, images=1, budgets=(8,)), console)["rows"]
    assert [row["keep"] for row in rows] == [8]
    with pytest.raises(ValueError, match="--budget: must be less than the model's 144 vision"):
        run(small(folder, tmp_path, images=1, budgets=(144, 999)), console)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--preset", "all"),
            "--preset: must be one of methods, ablations, pivoted, quick, got 'all'",
        ),
        (("--split", "dev"), "--split: must be one of train, validation, test, got 'dev'"),
        (("--images", "0"), "--images: must be at least 1, got 0"),
        (("--budget", "0"), "--budget: must be at least 1, got [0]"),
        (
            ("--out", f"{__file__}/sub"),
            f"--out: must be a folder to write to, or one to be made, got {__file__}/sub",
        ),
        (("--out", "/proc/sub"), "--out: must be a folder to write to"),
        (("--model", "/nowhere"), "--model: must be a folder with a LLaVA's weights"),
    ],
)
def test_the_command_refuses_in_one_line(arguments, message):
    result = CliRunner().invoke(cli.app, ["eval", *arguments])
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("left", [["config.json"], ["config.json", "model.safetensors"]])
def test_a_folder_without_weights_or_processor_is_refused(left, folder, tmp_path):
    for name in left:
        shutil.copy(folder / name, tmp_path)
    result = CliRunner().invoke(cli.app, ["eval", "--model", str(tmp_path)])
    assert result.exit_code == 2
    line = result.stderr.splitlines()[-1]  # transformers shows how weights are loaded
    assert line.startswith("svdprune eval: --model: must be a folder with a LLaVA's weights")
    assert str(tmp_path) in line
