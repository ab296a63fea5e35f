"""The CPU backend's stages on AArch64, whose vectors are NEON's: cross-compiled, and run by QEMU."""

import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from agreement import assert_agrees
from conftest import built_once
from emulated import compile_each
from samples import gaussian, outliers, photograph, power_law, with_spectrum

HERE = Path(__file__).resolve().parent
COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"
# What program.cpp does not call, nor what it calls.
NOT_NEEDED = {
    "gather",
    "keep",
    "pivot",
    "prune",
    "rater_scores",
    "row_products",
    "select",
    "softmax",
}
missing = [name for name in (COMPILER, EMULATOR) if shutil.which(name) is None]
pytestmark = pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


def build(folder: Path) -> None:
    headers = Path(torch.__file__).parent / "include"
    sources = [f for f in (HERE.parent / "csrc/cpu").glob("*.cpp") if f.stem not in NOT_NEEDED]

    command = [
        *(COMPILER, "-std=c++20", "-O3", "-DTORCH_TARGET_VERSION=0x020a000000000000"),
        *("-isystem", headers),
    ]
    objects = compile_each(folder, [HERE / "aarch64/program.cpp", *sources], command)
    subprocess.run([COMPILER, "-static", *objects, "-o", folder / "program"], check=True)


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Path:
    return built_once(tmp_path_factory, "aarch64", build) / "program"


@pytest.mark.parametrize(
    "make",
    [
        photograph,
        lambda: gaussian(257, 300),
        lambda: gaussian(37, 53, dtype=torch.float16),
        lambda: gaussian(300, 70),
        lambda: outliers(100, 64, 1e3),
        lambda: with_spectrum(200, 240, power_law(200, 1.5)),
        lambda: torch.ldexp(gaussian(60, 80), torch.tensor(-100)),
    ],
    ids=["photograph", "flat", "16 bits", "tall", "outliers", "power law", "tiny numbers"],
)
@pytest.mark.parametrize("variance", [0.8, 0.95])
def test_scores_and_ranks_are_the_oracles(program, tmp_path, make, variance):
    x = make()
    (tmp_path / "x").write_bytes(x.numpy().tobytes())
    shape = (str(n) for n in x.shape)
    dtype = str(x.dtype).removeprefix("torch.")
    done = subprocess.run(
        [EMULATOR, program, tmp_path / "x", *shape, dtype, str(variance)],
        capture_output=True,
        text=True,
        check=True,
    )
    (rank, steps), *rest = (line.split() for line in done.stdout.splitlines())
    assert 1 <= int(steps) <= min(x.shape)
    scores = torch.tensor([float(value) for (value,) in rest])
    assert_agrees(x, scores, torch.tensor(int(rank)), options={"variance": variance})
