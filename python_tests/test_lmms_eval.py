"""The lmms-eval adapter: its arguments, and docs/lmms-eval.md's command on a tiny VLM and local samples."""

import importlib.util
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import svdprune_ext  # noqa: E402
from bench.tiny_vlm.build import build_model  # noqa: E402
from svdprune_ext import lmms_eval_plugin, tiny_vlm  # noqa: E402
from svdprune_ext.lmms_eval_plugin import MODEL, check_pruning, split_arguments  # noqa: E402
from svdprune_ext.tiny_vlm.loading import SHIPPED  # noqa: E402

SAMPLES = 6
OF_MODEL = ("pretrained", "device", "device_map")
needs_lmms_eval = pytest.mark.skipif(
    importlib.util.find_spec("lmms_eval") is None,
    reason="lmms-eval is not installed: pip install svdprune_ext[lmms-eval]",
)


def test_arguments_of_apply_are_told_from_the_models():
    given = {"pretrained": "x", "keep": 0.1, "method": "dart", "options": '{"pivots": 4}'}
    of_model, pruning = split_arguments({**given, "coverage": "None"}, OF_MODEL)
    assert of_model == {"pretrained": "x"}
    options = {"pivots": 4}
    assert pruning == {"keep": 0.1, "method": "dart", "options": options, "coverage": None}
    assert split_arguments({}, OF_MODEL) == ({}, {})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kept": 3}, r"model_args must be of svdprune_ext.apply \(keep, method, .*got kept"),
        ({"options": "pivots"}, "options must be a JSON object, got 'pivots'"),
        ({"keep": -5.0}, r"keep must be an int >= 1 or a float in \(0, 1\], got -5.0"),
        ({"method": "best"}, "method must be one of svd, .*got 'best'"),
        ({"positions": "new"}, "positions must be None or one of compact, original, got 'new'"),
        ({"method": "dart", "options": '{"pivot": 4}'}, "option must be one of pivots, got pivot"),
    ],
)
def test_wrong_arguments_are_refused_before_a_model_is_loaded(given, message):
    config = build_model().config
    with pytest.raises(ValueError, match=message):
        check_pruning(config, split_arguments(given, OF_MODEL)[1])


def test_the_entry_point_is_declared_and_imports_no_lmms_eval():
    (target,) = _entry_points().values()
    assert target == "svdprune_ext.lmms_eval_plugin:manifests"
    assert callable(lmms_eval_plugin.manifests)
    code = "import sys, svdprune_ext.lmms_eval_plugin; assert 'lmms_eval' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def _entry_points():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return project["entry-points"]["lmms_eval.models"]


# The command itself.

TASK = """
task: generated
dataset_path: parquet
dataset_kwargs:
  data_files:
    test: {samples}
test_split: test
output_type: generate_until
doc_to_visual: !function utils.visual
doc_to_text: "{{{{question}}}}"
doc_to_target: answer
process_results: !function utils.results
generation_kwargs:
  max_new_tokens: 5
metric_list:
  - metric: exact
    aggregation: mean
    higher_is_better: true
"""
UTILS = """
def visual(doc):
    return [doc["image"].convert("RGB")]


def results(doc, answers):
    return {"exact": float(answers[0].strip() == doc["answer"])}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A task of samples made here, and the package's entry points."""
    datasets = pytest.importorskip("datasets")
    place = tmp_path_factory.mktemp("lmms")
    rows = []
    for number in range(SAMPLES):
        made = tiny_vlm.sample(tiny_vlm.TEST, number)
        question = made.questions[0]
        row = {"question": question.text, "answer": question.answer}
        rows.append({**row, "image": Image.fromarray(made.image)})
    samples = place / "samples.parquet"
    datasets.Dataset.from_list(rows).to_parquet(samples)
    task = place / "tasks"
    task.mkdir()
    (task / "generated.yaml").write_text(TASK.format(samples=samples))
    (task / "utils.py").write_text(UTILS)
    # As pip would write them: an editable install made before they were declared lacks them.
    metadata = place / "installed" / f"svdprune_ext-{svdprune_ext.__version__}.dist-info"
    metadata.mkdir(parents=True)
    version = f"Name: svdprune_ext\nVersion: {svdprune_ext.__version__}\n"
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\n{version}")
    lines = [f"{name} = {target}" for name, target in _entry_points().items()]
    (metadata / "entry_points.txt").write_text("\n".join(["[lmms_eval.models]", *lines, ""]))
    return place, rows


def _run(place, model_args, out, *options):
    environment = {
        **os.environ,
        **{"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(place / "cache")},
        "PYTHONPATH": os.pathsep.join([str(place / "installed"), str(ROOT)]),
    }
    command = [
        *(sys.executable, "-m", "lmms_eval", "--model", MODEL, "--tasks", "generated"),
        *("--model_args", f"pretrained={SHIPPED},{model_args}", "--device", "cpu"),
        *("--include_path", str(place / "tasks"), "--log_samples", "--output_path", str(out)),
        *("--batch_size", "1", *options),
    ]
    return subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=place, check=False
    )


def _answers(model, processor, rows):
    answers = []
    for row in rows:
        text = f"<image> {row['question']}"
        inputs = processor(images=row["image"], text=text, return_tensors="pt")
        ids = model.generate(
            **inputs, max_new_tokens=5, do_sample=False, pad_token_id=2, eos_token_id=2
        )
        new = ids[0, inputs["input_ids"].shape[1] :]
        answers.append(processor.decode(new, skip_special_tokens=True))
    return answers


@needs_lmms_eval
def test_the_command_scores_the_answers_of_the_pruned_model(place):
    place, rows = place
    done = _run(place, "keep=9,method=svd,positions=original", place / "out")
    assert done.returncode == 0, done.stderr[-3000:]
    assert (
        f"{MODEL}: the language model saw 9 of 144 vision tokens an image, over {SAMPLES}"
        in done.stdout
    )
    (file,) = (place / "out").rglob("*samples_generated.jsonl")
    logged = [json.loads(line) for line in file.read_text().splitlines()]
    given = [row["filtered_resps"] for row in sorted(logged, key=lambda row: row["doc_id"])]
    model, processor = tiny_vlm.load(dtype=torch.float16)
    unpruned = _answers(model, processor, rows)
    with svdprune_ext.apply(model, keep=9, positions="original"):
        assert given == _answers(model, processor, rows)
    assert given != unpruned
    known = [a.strip() == row["answer"] for a, row in zip(unpruned, rows, strict=True)]
    assert sum(known) > SAMPLES / 2
    (file,) = (place / "out").rglob("*results.json")
    right = [a.strip() == row["answer"] for a, row in zip(given, rows, strict=True)]
    results = json.loads(file.read_text())
    assert results["results"]["generated"]["exact,none"] == sum(right) / len(right)
    assert results["config"]["model_args"].endswith("keep=9,method=svd,positions=original")


@needs_lmms_eval
@pytest.mark.parametrize("prompts", ["LlavaHfSVDPrune", "LlavaHfSVDPruneSimple"])
def test_an_error_in_generate_is_no_empty_answer(place, prompts):
    from lmms_eval.api.instance import Instance

    from svdprune_ext import lmms_eval_llava

    place, rows = place
    model_class = getattr(lmms_eval_llava, prompts)
    template = {"chat_template": "vicuna"} if model_class.is_simple else {}
    model = model_class(pretrained=str(SHIPPED), device="cpu", keep=9, **template)
    model.task_dict = {"generated": {"test": rows}}
    image, text = ({"type": "image", "url": rows[0]["image"]}, {"type": "text", "text": "what ?"})
    messages = [{"role": "user", "content": [image, text]}]
    wrong = {"max_new_tokens": 5, "num_beams": -1, "until": ["."]}
    arguments = (
        ("what ?", wrong, lambda doc: [doc["image"]], 0, "generated", "test")
        if model.is_simple
        else ("what ?", lambda doc: messages, wrong, 0, "generated", "test")
    )
    about = {"task": "generated", "doc_id": 0, "repeats": 1}
    request = Instance("generate_until", arguments, 0, about)
    with pytest.raises(RuntimeError, match=f"{MODEL}: generate failed") as failure:
        model.generate_until([request])
    assert "negative dimension" in str(failure.value.__cause__)
    wrong["num_beams"] = 1
    (answer,) = model.generate_until([request])
    assert getattr(answer, "text", answer)


@needs_lmms_eval
def test_arguments_are_read_from_the_command_line():
    from lmms_eval.utils import simple_parse_args_string

    line = (
        'pretrained=a/b,keep=0.1,method=dart,options={"pivots":4,"x":[1,2]},rank=none,center=true'
    )
    _, pruning = split_arguments(simple_parse_args_string(line), OF_MODEL)
    options = {"pivots": 4, "x": [1, 2]}
    assert pruning.pop("options") == options
    assert pruning == {"keep": 0.1, "method": "dart", "rank": None, "center": True}
    _, all_tokens = split_arguments(simple_parse_args_string("keep=1.0"), OF_MODEL)
    assert isinstance(all_tokens["keep"], float)  # a share; 1 would be one token


@needs_lmms_eval
def test_the_docs_lines_put_ocr_tokens_into_textvqas_prompt(tmp_path):
    from lmms_eval.utils import load_yaml_config

    docs = (ROOT / "docs" / "lmms-eval.md").read_text()
    (lines,) = re.findall(r"```sh\n(tasks=.*?)```", docs, re.DOTALL)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path}
    subprocess.run(["bash", "-ec", lines], cwd=tmp_path, env=environment, check=True)
    task = load_yaml_config(str(tmp_path / "textvqa_ocr" / "textvqa_val.yaml"))
    assert task["task"] == "textvqa_val_ocr"
    doc = {"question": "what does it say?", "ocr_tokens": ["STOP", "4"]}
    text = task["doc_to_text"](doc, task["lmms_eval_specific_kwargs"]["default"])
    assert text.startswith("What does it say?\nReference OCR token: STOP, 4\nAnswer the question")
