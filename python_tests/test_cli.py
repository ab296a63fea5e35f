"""The ``svdprune`` command: help, build facts, and one clear line for bad input."""

import os
import shlex
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers
from typer.testing import CliRunner

import svdprune_ext
from svdprune_ext import cli

ROOT = Path(__file__).resolve().parent.parent


def run(*arguments):
    return CliRunner(env={"COLUMNS": "200"}).invoke(cli.app, [str(a) for a in arguments])


def not_an_image(tmp_path: Path) -> Path:
    path = tmp_path / "photo.jpg"
    path.write_text("no image")
    return path


def cut_off(tmp_path: Path) -> Path:
    path = tmp_path / "photo.ppm"
    path.write_bytes(b"P6 9x 9 255 ")  # its reader raises ValueError
    return path


@pytest.mark.parametrize(
    "command", [(), ("demo",), ("eval",), ("bench",), ("estimate",), ("info",)]
)
def test_help(command):
    result = run(*command, "--help")
    assert result.exit_code == 0
    assert "Usage" in result.output


def test_version():
    result = run("--version")
    assert (result.exit_code, result.output) == (0, f"svdprune_ext {svdprune_ext.__version__}\n")


def test_the_extras_are_those_of_pyproject():
    names = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(cli._EXTRAS) == set(names) - {"test", "dev"}


def test_the_command_is_installed():
    (entry,) = entry_points(group="console_scripts", name="svdprune")
    assert entry.load() is cli.main


def test_info_prints_versions_and_build_facts():
    result = run("info")
    assert result.exit_code == 0
    for text in (svdprune_ext.__version__, torch.__version__, transformers.__version__):
        assert text in result.output
    for fact in cli.load_native().build_info():
        assert f"build: {fact.replace('_', ' ')}" in result.output
    if not svdprune_ext.has_cuda:
        assert "SVDPRUNE_CUDA=ON" in result.output


def test_info_names_missing_extras(monkeypatch):
    monkeypatch.setattr(cli, "find_spec", lambda name: None)
    result = run("info")
    assert result.exit_code == 0
    for extra in ("hf", "demo", "bench", "lmms-eval"):
        assert f"pip install 'svdprune_ext[{extra}]'" in result.output


def test_a_terminal_without_the_characters_is_shown_question_marks(tmp_path):
    shutil.copytree(ROOT / "svdprune_ext/tiny_vlm/checkpoint", tmp_path / "▀")
    result = subprocess.run(
        [sys.executable, "-m", "svdprune_ext.cli", "estimate", "--model", "▀"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "?: TFLOPs" in result.stdout


def test_info_imports_no_optional_package():
    code = (
        "import sys; from svdprune_ext import cli\n"
        "cli.app(['info'], standalone_mode=False)\n"
        "print([m for m in ('transformers', 'matplotlib', 'PIL', 'skimage', 'pytest') "
        "if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["--keep", "0"], "--keep"),
        (["--keep", "-3"], "--keep"),
        (["--keep", "577"], "--keep"),
        (["--variance", "0"], "--variance"),
        (["--variance", "1.5"], "--variance"),
        (["--variance", "nan"], "--variance"),
        (["--select", "best"], "--select"),
        (["--select", "pivoted", "--variance", "0.9"], "--variance"),
        (["--max-new-tokens", "0"], "--max-new-tokens"),
        (["--rounds", "0"], "--rounds"),
        (["--picture", "-1"], "--picture"),
        ([__file__, "--picture", "3"], "--picture"),
        (["--model", "m", "--picture", "0"], "--picture"),
        (["--seed", "1"], "--seed"),
        ([__file__, "--model", "m", "--seed", "0"], "--seed"),
        ([__file__, "--seed", 2**64], "--seed"),
        (["--dtype", "int8"], "--dtype"),
        (["--out", __file__], "--out"),
        (["--out", f"{__file__}/sub"], "--out"),
        (["--out", "/proc/sub"], "--out"),
        (["missing.jpg"], "PHOTO"),
        ([not_an_image], "PHOTO"),
        ([cut_off], "PHOTO"),
    ],
)
def test_bad_input_is_refused_in_one_line(arguments, name, tmp_path, monkeypatch):
    monkeypatch.setattr("svdprune_ext.demo.run.build_random_llava", _never)
    monkeypatch.chdir(tmp_path)
    arguments = [a(tmp_path) if callable(a) else a for a in arguments]
    result = run("demo", *arguments)
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"svdprune demo: {name}: ")
    assert not (tmp_path / "demo-out").exists()


def _never(*_, **__):
    raise AssertionError("a model was built for bad input")


def test_an_option_of_the_wrong_type_is_refused():
    result = run("demo", "--keep", "many")
    assert result.exit_code == 2
    assert "--keep" in result.stderr


@pytest.mark.parametrize("make", ["missing", "empty", "other family"])
def test_a_model_that_cannot_be_loaded_is_refused(make, tmp_path):
    folder = tmp_path / "model"
    if make != "missing":
        folder.mkdir()
    if make == "other family":
        transformers.LlamaConfig().save_pretrained(folder)
    result = run("demo", "--model", folder, "--out", tmp_path / "out")
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("svdprune demo: --model: ")
    assert str(folder) in line


@pytest.mark.parametrize(
    ("command", "extra"), [("demo", "demo"), ("bench", "bench"), ("estimate", "hf")]
)
def test_a_missing_extra_is_one_line_with_the_way_to_get_it(command, extra, monkeypatch):
    monkeypatch.setattr(cli, "find_spec", lambda name: None)
    result = run(command, *(("--model", "m") if command == "estimate" else ()))
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert f"pip install 'svdprune_ext[{extra}]'" in line


@pytest.mark.parametrize("agrees", [True, False])
def test_the_exit_status_says_whether_the_oracle_agrees(agrees, monkeypatch):
    result = SimpleNamespace(agreement=SimpleNamespace(agrees=agrees))
    monkeypatch.setattr("svdprune_ext.demo.run.run", lambda *_: result)
    assert run("demo").exit_code == (0 if agrees else 1)


def test_bench_outside_a_checkout_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(cli, "_ROOT", tmp_path)
    result = run("bench")
    assert result.exit_code == 2
    assert "clone the repository" in result.stderr


def test_bench_passes_its_options_on(monkeypatch, tmp_path):
    calls = []

    def fake_run(command, **options):
        calls.append((command, options))
        return SimpleNamespace(returncode=3)

    monkeypatch.setattr(cli.subprocess, "run", fake_run)
    monkeypatch.chdir(tmp_path)
    assert run("bench", "--quick", "--json", "b.json", "--filter", "flat").exit_code == 3
    ((command, _),) = calls
    assert command[1:] == [
        *("-m", "bench.run", "--quick"),
        *("--json", str(tmp_path / "b.json"), "--filter=flat"),
    ]


def test_make_takes_a_photograph_with_a_space_in_its_name():
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    for photo, expected in (("/tmp/my photo's.png", ["/tmp/my photo's.png"]), ("", [])):
        command = [
            "make",
            "--no-print-directory",
            "-n",
            "-o",
            ".venv/installed",
            "demo",
            f"PHOTO={photo}",
        ]
        made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        assert shlex.split(made.stdout.splitlines()[-1])[1:] == ["demo", *expected]
