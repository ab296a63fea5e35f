"""``run_gpu.sh``, with an interpreter and a sanitizer that only note how they were called."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
STUB = """#!/bin/sh
case "$*" in
  *bench.gpu_result*) exec {python} "$@" ;;
  *get_device_capability*) echo "{gpu}" >&2; test -z "{gpu}"; exit ;;
esac
echo "python $*" >> {calls}
exit {status}
"""
SANITIZER = """#!/bin/sh
echo "sanitizer $*" >> {calls}
exit {status}
"""
TEST_STAGES = ["build", "backend", "tests", "memcheck", "racecheck", "runtime-tests"]
BENCH_STAGES = ["build", "backend", "kernels", "micro-benchmarks", "prefill"]


def run_gpu(tmp_path, *arguments, status=0, sanitizer=True, gpu_error=""):
    calls, bin_, out = tmp_path / "calls", tmp_path / "bin", tmp_path / "out"
    bin_.mkdir()
    scripts = {"python-stub": STUB, **({"compute-sanitizer": SANITIZER} if sanitizer else {})}
    for name, script in scripts.items():
        fields = {"python": sys.executable, "calls": calls, "status": status, "gpu": gpu_error}
        (bin_ / name).write_text(script.format(**fields))
        (bin_ / name).chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{bin_}:/usr/bin:/bin",
        "PYTHON": str(bin_ / "python-stub"),
        "OUT": str(out),
    }
    done = subprocess.run(
        ["bash", str(ROOT / "bench" / "run_gpu.sh"), *arguments],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
        check=False,
    )
    return done, out, calls.read_text().splitlines() if calls.exists() else []


def stages_of(out):
    return {s["name"]: s["verdict"] for s in json.loads((out / "gpu.json").read_text())["stages"]}


def test_run_gpu_notes_every_failure_and_goes_on(tmp_path):
    done, out, _ = run_gpu(tmp_path, status=3)
    assert done.returncode == 1, done.stderr
    verdicts = stages_of(out)
    assert set(verdicts) == {*TEST_STAGES, *BENCH_STAGES}
    assert all(v.startswith("FAILED: exit status 3, see ") for v in verdicts.values())
    summary = (out / "summary.md").read_text()
    for name in verdicts:
        assert f"| {name} | FAILED: exit status 3, see " in summary
    assert summary in done.stdout
    assert len(list(out.iterdir())) <= 8


@pytest.mark.parametrize(
    ("what", "stages"), [("tests", TEST_STAGES), ("bench", BENCH_STAGES)], ids=["tests", "bench"]
)
def test_run_gpu_runs_a_part(tmp_path, what, stages):
    done, out, calls = run_gpu(tmp_path, what)
    assert done.returncode == 0, done.stderr
    assert stages_of(out) == dict.fromkeys(stages, "passed")
    assert "FAILED" not in (out / "summary.md").read_text()
    assert any("-m pip install --no-build-isolation --no-deps" in call for call in calls)
    assert any("bench.bench_prefill" in call for call in calls) == (what == "bench")
    assert any("sanitizer --tool racecheck" in call for call in calls) == (what == "tests")


def test_run_gpu_stops_where_there_is_no_gpu(tmp_path):
    done, out, calls = run_gpu(tmp_path, gpu_error="RuntimeError: Found no NVIDIA driver")
    assert done.returncode == 1
    why = "FAILED: torch cannot use one: RuntimeError: Found no NVIDIA driver"
    summary = (out / "summary.md").read_text()
    assert [line for line in summary.splitlines() if line.startswith("|")][2:] == [
        f"| GPU | {why} | 0 |"
    ]
    assert calls == []


def test_run_gpu_says_that_the_sanitizer_is_missing(tmp_path):
    done, out, _ = run_gpu(tmp_path, "tests", sanitizer=False)
    assert done.returncode == 0
    assert stages_of(out)["memcheck"] == "skipped: compute-sanitizer is not on the PATH"


def test_run_gpu_says_how_it_is_called(tmp_path):
    done, _, calls = run_gpu(tmp_path, "everything")
    assert done.returncode == 2
    assert "usage: bash bench/run_gpu.sh [tests|bench]" in done.stderr
    assert calls == []


def test_run_gpu_stays_below_eight_minutes():
    lines = (ROOT / "bench" / "run_gpu.sh").read_text().split()
    limits = {
        lines[i + 1].strip('"'): int(lines[i + 2])
        for i, word in enumerate(lines[:-2])
        if word in ("stage", "sanitize", "tests") and lines[i + 2].isdigit()
    }
    assert len(limits) == 9
    together = [limits.pop(name) for name in ("tests", "memcheck", "racecheck")]
    in_turn = [max(together), *limits.values()]
    assert sum(in_turn) + 2 * len(in_turn) + 15 < 8 * 60
