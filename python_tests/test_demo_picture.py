"""The demonstration as it runs by default: the package's tiny VLM and a generated picture."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

import svdprune_ext
from svdprune_ext import cli, tiny_vlm
from svdprune_ext.demo.picture import load_picture
from svdprune_ext.demo.run import run
from svdprune_ext.demo.settings import Settings, SettingsError
from svdprune_ext.demo.tables import FEW

KEEP = 16
RESULTS = Path(__file__).resolve().parent.parent / "bench/results/eval/methods.json"


@pytest.fixture(scope="module")
def demonstrated(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo")
    console = Console(file=io.StringIO(), width=160)
    result = run(Settings(keep=KEEP, rounds=1, out=out), console)
    return result, console.file.getvalue(), json.loads((out / "demo.json").read_text()), out


def test_the_answers_are_the_models_own(demonstrated):
    result, _, numbers, _ = demonstrated
    picture = load_picture(0)
    model, processor = tiny_vlm.load()
    assert [asked["text"] for asked in numbers["asked"]] == [q.text for q in picture.questions]
    with torch.inference_mode():
        for asked in numbers["asked"]:
            text = tiny_vlm.prompt(asked["text"])
            inputs = processor(images=picture.image, text=text, return_tensors="pt")
            for keep, way in ((None, "all"), (KEEP, "kept")):
                handle = svdprune_ext.apply(model, keep) if keep else None
                output = model.generate(**inputs, max_new_tokens=5, do_sample=False)
                if handle is not None:
                    handle.remove()
                new = output[0, inputs["input_ids"].shape[1] :]
                given = processor.tokenizer.decode(new, skip_special_tokens=True).strip()
                assert given == asked[way]
    (about,) = [a for a in numbers["asked"] if a["text"] == result.settings.question]
    assert numbers["text"] == {"all": about["all"], "kept": about["kept"], "right": about["answer"]}


def test_it_reads_and_counts_with_all_tokens(demonstrated):
    _, _, numbers, _ = demonstrated
    right = [asked["all"] == asked["answer"] for asked in numbers["asked"]]
    assert len(right) >= 9
    assert sum(right) >= 0.7 * len(right)
    assert numbers["agreement"]["agrees"] is True
    assert (numbers["num_tokens"], len(numbers["indices"])) == (144, KEEP)


def test_it_shows_questions_answers_and_picture(demonstrated):
    _, output, numbers, out = demonstrated
    for asked in numbers["asked"]:
        assert asked["text"] in output
    for text in ("right answer", "all 144", f"{KEEP} kept", "test split", "trained from scratch"):
        assert text in output
    with Image.open(out / "demo.png") as picture:
        assert np.asarray(picture.convert("L")).std() > 20


def test_it_says_what_so_few_tokens_cost(demonstrated):
    _, output, numbers, _ = demonstrated
    assert "--keep 32" in output
    assert numbers["settings"]["seed"] is None
    measured = json.loads(RESULTS.read_text())
    row = {(r["keep"], r["series"].split()[0]): r for r in measured["rows"]}
    shown = [row[16, "SVD"], measured["unpruned"], row[32, "SVD"], row[16, "pivoted"]]
    shares = [r["accuracy"][kind][0] for r in shown for kind in ("compositional", "reading")]
    told = [int(n) for n in re.findall(r"(\d+) (?:%|and)", FEW)]
    assert told == [round(100 * share) for share in shares]


def test_the_command_takes_a_picture_by_number(tmp_path):
    arguments = ["demo", "--picture", "4", "--rounds", "1", "--out", str(tmp_path / "out")]
    result = CliRunner(env={"COLUMNS": "160"}).invoke(cli.app, arguments)
    assert result.exit_code == 0, result.output
    numbers = json.loads((tmp_path / "out" / "demo.json").read_text())
    assert numbers["photo"].startswith("picture 4 of the test split")
    assert numbers["settings"]["picture"] == 4
    assert numbers["settings"]["keep"] == KEEP


def test_too_many_tokens_are_refused(tmp_path):
    with pytest.raises(SettingsError, match=r"--keep: must be in \[1, 144\]"):
        run(Settings(keep=145, out=tmp_path), Console(file=io.StringIO()))


def test_the_shipped_files_are_small():
    folder = tiny_vlm.loading.SHIPPED
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 8e6
    figures = json.loads((folder / "evaluation.json").read_text())
    card = (folder / "README.md").read_text()
    assert f"| **compositional (mean)** | {figures['compositional']['share']:.3f} |" in card
