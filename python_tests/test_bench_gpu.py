"""The GPU benchmarks' parts that need no GPU: timing rules, rows, FLOPs and tables."""

import json
import re
import sys
import time
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench import bench_gpu, bench_prefill, gpu_document, gpu_result, gpu_small, report  # noqa: E402
from bench.bench_gpu import OURS, PEERS, Benchmark, GpuCase  # noqa: E402
from bench.gpu_kernels import short_name  # noqa: E402
from bench.gpu_timing import alternating, describe_gpu, first_line  # noqa: E402
from bench.prefill_rows import Candidate  # noqa: E402

# Made up, to be recognised: nothing of this was measured.
RESULT = {
    "machine": {
        "gpu": "Imaginary GPU",
        "driver": "1.2",
        "torch": "2.11.0",
        "svdprune": "0.1.0",
        "revision": "abc",
        "date": "2026-01-01",
    },
    "stages": [],
    "ceilings": {"copy": 2e12, "bfloat16": 5e14, "float32": 4e13},
    "micro": [
        {
            "images": 8,
            "tokens": 576,
            "width": 1024,
            "spectrum": "photograph",
            "dtype": "float32",
            "keep": 32,
            "rank": 21.0,
            "kept_as_on_cpu": 32,
            "tridiag": {"ran": "tridiag", "steps": 95.0, "kept_as_on_cpu": 32},
            "bytes": 4_000_000,
            "flops": 8_000_000_000,
            "eager": {"svdprune": 0.002, "svdprune_eigh": 8e-3, "gram_eigh": 0.02, "svd": 0.1}
            | {"svdprune_pivoted": 1e-4},
            "graph": {"svdprune": 0.001, "svdprune_tridiag": 3e-4, "svdprune_pivoted": 5e-5},
            "rounds": {"svdprune": 50, "gram_eigh": 9, "svd": 1},
            "skipped": {"cupy_eigh": "ModuleNotFoundError: No module named 'cupy'"},
        }
    ],
    "kernels": [
        {
            "images": 1,
            "tokens": 576,
            "width": 1024,
            "spectrum": "flat",
            "dtype": "bfloat16",
            "keep": 32,
            "operator": 'solver "tridiag"',
            "kernels": {"gram_fused_kernel": 1e-5, "memset": 1e-7, "eig_select_kernel": 2e-4},
        }
    ],
    "prefill": [
        {
            "images": 1,
            "text_tokens": 64,
            "vision_tokens": 576,
            "keep": keep,
            "rank": rank,
            "seconds": {
                "vision tower": 0.01,
                "pruning": pruning,
                "projector": 0.001,
                "prefill": 0.1,
                "total": 0.112,
            },
            "rounds": 3,
            "memory": 3 * 2**30,
            "graph": None if keep == 576 else 0.09,
            "not_captured": "RuntimeError: why" if keep == 576 else None,
            "flops": bench_prefill.Sizes().flops_row(keep),
        }
        for keep, rank, pruning in ((576, None, 0.0), (32, 20.0, 0.001))
    ],
}


def test_candidates_alternate_within_their_budget():
    clock, calls = {"fast": [9.0] + [1.0] * 9, "slow": [4.0] * 9, "slowest": [50.0]}, []

    def time_once(run):
        calls.append(run)
        return clock[run].pop(0)

    durations, failures = alternating(
        {name: name for name in clock}, time_once, budget=10.0, max_rounds=4
    )
    assert durations == {"fast": [1.0] * 4, "slow": [4.0] * 3, "slowest": [50.0]}
    assert calls == ["fast", "slow", "slowest"] + ["fast", "slow"] * 3 + ["fast"]
    assert failures == {}


def test_a_candidate_that_fails_is_named_and_left_out():
    def fails():
        raise RuntimeError("first line\nsecond line")

    durations, failures = alternating(
        {"fails": fails, "works": lambda: 2.0}, lambda run: run(), budget=3.0
    )
    assert durations == {"works": [2.0, 2.0]}
    assert failures == {"fails": "RuntimeError: first line"}
    assert len(first_line(ValueError("x" * 999))) == 200


def test_the_machine_is_described_with_and_without_a_gpu():
    machine = describe_gpu()
    assert {"gpu", "driver", "cuda", "transformers", "torch", "revision", "date"} <= set(machine)
    assert (machine["gpu"] is None) != torch.cuda.is_available()


def test_images_of_a_large_batch_repeat():
    x = GpuCase(9, 16, 8, torch.bfloat16).features()
    assert x.shape == (9, 16, 8)
    assert x.dtype == torch.bfloat16
    assert torch.equal(x[0], x[8])
    assert not torch.equal(x[0], x[1])


@pytest.mark.parametrize(("tokens", "width"), [(576, 1024), (1024, 576)])
def test_least_bytes_and_nominal_flops(tokens, width):
    case = GpuCase(2, tokens, width, torch.bfloat16)
    kept = 2 * bench_gpu.KEEP * width * 2
    assert case.least_bytes() == 2 * (2 * tokens * width + kept + 4 * tokens + 8 * bench_gpu.KEEP)
    assert case.nominal_flops() == 2 * (576**2 * 1024 + 4 * 576**3 // 3)


def make_benchmark(seconds, deadline=None):
    """A benchmark whose every call takes the given seconds an image, on the CPU."""

    def time_once(run):
        run()
        return seconds * run.args[0].shape[0]

    return Benchmark(time_once, time.monotonic() + 60 if deadline is None else deadline)


def test_a_row_of_every_candidate():
    benchmark = make_benchmark(0.01)
    case = GpuCase(2, 40, 56, torch.float32)
    benchmark.eager(case, case.features(), budget=0.1)
    (row,) = benchmark.rows
    measured = {*OURS, *PEERS} - set(row["skipped"])
    assert {"svdprune", "svdprune_eigh", "gram_eigh", "svd"} <= measured
    assert set(row["eager"]) == measured
    assert row["eager"]["svd"] == pytest.approx(0.02)
    assert row["rounds"]["svd"] == 5
    assert json.loads(json.dumps(row)) == row


def test_a_peer_that_would_be_slow_is_left_out_with_the_reason():
    benchmark = make_benchmark(0.5)
    for images in (1, 8):
        case = GpuCase(images, 40, 56, torch.float32)
        benchmark.eager(case, case.features(), budget=0.1)
    first, second = benchmark.rows
    assert "svd" in first["eager"]
    assert second["skipped"]["svd"] == "about 4.0 s a call by smaller batches, over 1.5 s"
    assert "svdprune" in second["eager"]


def test_nothing_starts_after_the_deadline():
    benchmark = make_benchmark(0.01, deadline=0.0)
    case = GpuCase(1, 40, 56, torch.float32)
    benchmark.eager(case, case.features(), budget=0.1)
    assert set(benchmark.rows[0]["skipped"].values()) == {"the time budget was spent"}


def test_a_capture_that_fails_is_tried_once(monkeypatch):
    tried = []

    def captured(run):
        tried.append(run)
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(bench_gpu, "captured", captured)
    benchmark = make_benchmark(0.01)
    for images in (1, 2):
        case = GpuCase(images, 40, 56, torch.float32)
        benchmark.eager(case, case.features(), budget=0.1)
    for row in benchmark.rows:
        benchmark.graphs(row, torch.zeros(1, 40, 56), ["svd"], budget=0.1)
        assert row["skipped"]["svd graph"] == (
            "not captured: RuntimeError: operation not permitted when stream is capturing"
        )
    assert len(tried) == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("module", [bench_gpu, bench_prefill])
def test_without_a_gpu_nothing_is_measured(module, tmp_path, capsys):
    assert module.main(["--json", str(tmp_path / "out.json")]) == 2
    assert "there is no GPU that torch can use" in capsys.readouterr().err
    assert not (tmp_path / "out.json").exists()


def test_a_run_fails_where_the_operator_does():
    row = {
        **RESULT["micro"][0],
        "auto": {"kept_as_on_cpu": 30},
        "skipped": {"svd": "slow", "svdprune_eigh graph": "not captured"},
    }
    assert bench_gpu.problems({"rows": [row]}) == []
    assert bench_gpu.problems({"rows": [{**row, "auto": {"kept_as_on_cpu": 29}}]}) == [
        "8 x 576 x 1024, float32: auto kept 29 of the 32 tokens that the CPU keeps"
    ]
    failed = {**row, "eager": {}, "skipped": {"svdprune": "RuntimeError: no"}}
    assert bench_gpu.problems({"rows": [failed]}) == [
        "8 x 576 x 1024, float32: svdprune: RuntimeError: no",
        "the operator was not measured",
    ]
    assert bench_gpu.problems({"rows": []}) == ["the operator was not measured"]


def test_the_small_script_calls_everything():
    assert gpu_small.run("cpu") == 4 * (4 * 22 + 4) + 10


def test_the_small_scripts_command_line(monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(gpu_small, "run", lambda *given: calls.append(given) or 3)
    for arguments in ([], ["cpu", ""], ["cpu", "quick"]):
        gpu_small.main(arguments)
    assert calls == [("cuda", False), ("cpu", False), ("cpu", True)]
    with pytest.raises(SystemExit, match="0"):
        gpu_small.main(["--help"])
    assert "quick" in capsys.readouterr().out


# LLaVA's prefill.


@pytest.mark.parametrize(
    ("keep", "language_model", "less", "less_with_vision"),
    [
        (576, 8.504, 0.0, 0.0),
        (192, 3.350, 60.6, 57.8),
        (128, 2.506, 70.5, 67.3),
        (64, 1.667, 80.4, 76.7),
        (32, 1.248, 85.3, 81.4),
        (16, 1.040, 87.8, 83.8),
    ],
)
def test_flops_of_llava_7b(keep, language_model, less, less_with_vision):
    flops = bench_prefill.Sizes().flops_row(keep)
    assert flops["vision"] / 1e12 == pytest.approx(0.406, abs=5e-4)
    assert flops["language_model"] / 1e12 == pytest.approx(language_model, abs=5e-4)
    assert 100 * flops["saved_language_model"] == pytest.approx(less, abs=0.05)
    assert 100 * flops["saved_with_vision"] == pytest.approx(less_with_vision, abs=0.05)
    assert bench_prefill.Sizes().flops_row([keep] * 32) == flops
    in_depth = bench_prefill.Sizes().flops_row([576] * 16 + [keep] * 16)["language_model"]
    unpruned = bench_prefill.Sizes().flops_row(576)["language_model"]
    assert in_depth == (unpruned + flops["language_model"]) / 2


def test_prefill_of_a_tiny_model_on_the_cpu():
    sizes = bench_prefill.Sizes(
        image=56,
        vision_width=32,
        vision_inner=64,
        vision_layers=2,
        vision_heads=4,
        text_width=48,
        text_inner=96,
        text_layers=2,
        text_heads=4,
        vocabulary=100,
    )
    model = bench_prefill.build_model(sizes, torch.device("cpu"), torch.bfloat16)
    assert model.dtype == torch.bfloat16
    assert torch.get_default_dtype() == torch.float32
    assert not any(p.isnan().any() for p in model.parameters())
    rows = bench_prefill.measure(model, sizes, 2, (16, 2), budget=0.0)
    assert [row["keep"] for row in rows] == [16, 2]
    assert [row["rounds"] for row in rows] == [2, 2]
    assert rows[0]["rank"] is None
    assert rows[0]["seconds"]["pruning"] == 0.0
    assert rows[1]["rank"] >= 1
    for row in rows:
        assert row["memory"] is None
        assert row["seconds"]["total"] > row["seconds"]["prefill"] > 0
        assert row["by_hand"] > 0
        gpu_document.prefill_cells(row)
    within = {**rows[1], "layers": [1]}  # a method within the decoder: nothing is pruned before it
    assert gpu_document.prefill_cells(rows[1])[3] != gpu_document.prefill_cells(within)[3] == "-"
    assert json.loads(json.dumps(rows)) == rows


def test_prefill_on_the_cpu_becomes_a_section_of_the_readme(tmp_path, monkeypatch):
    tiny = bench_prefill.Sizes(56, 14, 32, 64, 2, 4, 48, 96, 2, 4, 100)
    monkeypatch.setattr(bench_prefill.Sizes, "for_cpu", lambda: tiny)
    monkeypatch.setattr(bench_prefill, "KEEPS", (16, 4))
    within = (Candidate("FastV", 4, {"method": "fastv", "keep": 4, "options": {"layer": 1}}),)
    monkeypatch.setattr(bench_prefill, "WITHIN_DECODER", within)
    file = tmp_path / "cpu" / "prefill.json"  # in a folder that is not there yet
    command = ["--device", "cpu", "--json", str(file), "--budget", "0"]
    assert bench_prefill.main(command) == 0
    readme = "before <!-- bench:prefill:begin --><!-- bench:prefill:end --> after"
    lines = report.rewrite(readme, tmp_path, tmp_path).splitlines()
    assert lines[0].startswith("before")
    assert lines[-1].endswith("after")
    assert "2 layers of 48, 2 vision layers of 32" in lines[1]
    expected = ["| all 16", "| 4", "| FastV at 4: 10 on average"]
    assert [line.split(" | ")[0] for line in lines[5:8]] == expected
    by_hand = [line.split(" | ")[5] for line in lines[5:8]]
    assert re.fullmatch(r"[\d.]+ [mµ]?s", by_hand[0])
    assert re.fullmatch(r"[\d.]+ [mµ]?s \([\d.]+x\)", by_hand[1])
    assert by_hand[2] == "-"
    assert re.fullmatch(
        r"The patch .* 5 rounds\): at 32 tokens its hooks take [\d.]+ [mµ]s, [\d.]+% of the unpruned .*"
        r"pass takes [+-][\d.]+% \(quartiles [+-][\d.]+%, [+-][\d.]+%\)\.",
        lines[-2],
    )


# Tables.


@pytest.mark.parametrize(
    ("amount", "seconds", "text"),
    [
        (4e6, 0.002, "2 GB/s"),
        (4e12, 1, "4 TB/s"),
        (1e9, 1, "1 GB/s"),
        (3, 2, "1.5 B/s"),
        (3, None, "-"),
    ],
)
def test_rates_are_readable(amount, seconds, text):
    assert gpu_document.format_rate(amount, seconds, "B/s") == text


def test_tables_of_a_run():
    text = gpu_document.tables(RESULT)
    assert "Imaginary GPU, driver 1.2; torch 2.11.0; svdprune_ext 0.1.0 (abc); 2026-01-01" in text
    assert "copying 2 TB/s; matrix products 500 TFLOP/s in bfloat16, 40 TFLOP/s in float32" in text
    assert (
        "| 8 x 576 x 1024 | float32 | 21 | 95 | 2 ms | 2 GB/s | 4 TFLOP/s | 1 ms | 8 ms (4.0x) "
        "| 100 µs (0.1x) | 50 µs | 20 ms (10.0x) | - | 100 ms (50.0x) |"
    ) in text
    stood_in = {**RESULT["micro"][0], "tridiag": {"ran": "eigh", "steps": 576.0}}
    assert gpu_document.micro_cells(stood_in)[3] == "-"
    purified = {**RESULT["micro"][0], "auto": {"ran": "purify", "steps": 40.0}}
    assert gpu_document.micro_cells(purified)[3] == "40 products"
    assert (
        "| 1 | all 576 | 10 ms | - | 1 ms | 100 ms | 112 ms | - | 0.0% | 0.0% | 3.00 GiB |" in text
    )
    assert (
        "| 1 | 32 | 10 ms | 1 ms | 1 ms | 100 ms | 112 ms | 90 ms | 85.3% | 81.4% | 3.00 GiB |"
        in text
    )
    columns = {line.count("|") for line in text.splitlines() if line.startswith("|")}
    headers = (gpu_document.MICRO_HEADER, gpu_document.PREFILL_HEADER, gpu_document.KERNELS_HEADER)
    assert columns == {len(header) + 1 for header in headers}
    assert (
        '| 1 x 576 x 1024, flat | bfloat16 | solver "tridiag" | 210 µs '
        "| gram_fused_kernel 10 µs, eig_select_kernel 200 µs |"
    ) in text
    assert gpu_document.reasons(RESULT) == [
        "cupy_eigh: ModuleNotFoundError: No module named 'cupy' (8 x 576 x 1024 float32)",
        "prefill as a CUDA graph: RuntimeError: why (1 images, 576 tokens)",
    ]


@pytest.mark.parametrize(
    ("kernel", "name"),
    [
        (
            "void svdprune::cuda::(anonymous namespace)::pivot_kernel<float>(svdprune::X, int)",
            "pivot_kernel",
        ),
        ("svdprune::cuda::gather_kernel(svdprune::cuda::Images)", "gather_kernel"),
        ("Memset (Device)", "Memset"),
        ("nvjet_tst_128x64", "nvjet_tst_128x64"),
    ],
)
def test_a_kernels_name_is_shortened(kernel, name):
    assert short_name(kernel) == name


def test_a_run_without_its_benchmarks_has_no_table():
    assert "|" not in gpu_document.tables({**RESULT, "micro": [], "kernels": [], "prefill": []})


README = "before\n<!-- bench:gpu:begin -->\nold\n<!-- bench:gpu:end -->\nafter\n"
MACHINE = {"cpu": "C", "cores": 1, "threads": 1} | RESULT["machine"]


@pytest.fixture
def readme(tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "README.md").write_text(README)
    return tmp_path / "README.md"


def rewritten(readme):
    results = str(readme.parent / "results")
    status = report.main(["--results", results, str(readme)])
    return status, readme.read_text()


def gpu_section(text):
    return text.partition("<!-- bench:gpu:begin -->\n")[2].partition("<!-- bench:gpu:end -->")[0]


def test_the_readme_says_that_no_gpu_was_measured(readme):
    status, text = rewritten(readme)
    assert status == 0
    section = gpu_section(text)
    assert section.startswith("Nobody has measured the CUDA backend's speed yet.")
    assert not any(character.isdigit() for character in section)
    assert text.endswith("<!-- bench:gpu:end -->\nafter\n")


def test_the_readme_shows_a_committed_gpu_result(readme):
    folder = readme.parent / "results" / "imaginary"
    folder.mkdir()
    (folder / "one.json").write_text(json.dumps(RESULT))
    status, text = rewritten(readme)
    assert status == 0
    assert gpu_section(text) == gpu_document.overview(RESULT) + "\n"


def test_a_result_without_a_gpu_is_no_gpu_result(readme, capsys):
    folder = readme.parent / "results" / "none"
    folder.mkdir()
    (folder / "one.json").write_text(json.dumps({**RESULT, "machine": {"gpu": None}}))
    assert rewritten(readme) == (2, README)
    assert "one.json was not measured on a GPU" in capsys.readouterr().err


def test_a_result_is_put_together_from_what_there_is(tmp_path):
    (tmp_path / "stages.tsv").write_text("build\tpassed\t7\nprefill\tFAILED: exit status 1\t3\n")
    (tmp_path / "micro.json").write_text(json.dumps({"ceilings": {}, "rows": RESULT["micro"]}))
    (tmp_path / "prefill.json").write_text("{ cut off")
    result = gpu_result.assemble(tmp_path, MACHINE)
    assert result["stages"][1] == {
        "name": "prefill",
        "verdict": "FAILED: exit status 1",
        "seconds": 3,
    }
    assert result["micro"] == RESULT["micro"]
    assert result["prefill"] == []


def test_agreement_with_the_cpu_tells_what_ran():
    x = GpuCase(2, 64, 80, torch.float32).features()
    found = bench_gpu.agreement_with_cpu(x)
    assert found["kept_as_on_cpu"] == found["tridiag"]["kept_as_on_cpu"] == bench_gpu.KEEP
    assert found["tridiag"]["ran"] == "tridiag"
    assert 0 < found["tridiag"]["steps"] <= 64
    assert found["auto"] == found["tridiag"]
    assert found["rank"] >= 1
