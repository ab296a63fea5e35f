"""Finding and loading the libraries, and the lists that the build is made from."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import svdprune_ext as svdprune
from svdprune_ext import _load, _register

ROOT = Path(__file__).resolve().parent.parent
CSRC = ROOT / "csrc"
COMMAND = "pip install --no-build-isolation -e ."


def one_sentence(message):
    return (
        "\n" not in message and message.endswith(".") and ". " not in message.replace(COMMAND, "")
    )


def test_libraries_are_loaded():
    assert isinstance(svdprune.has_cuda, bool)
    for name in ("leverage_scores", "prune", "prune_adaptive", "prune_varlen"):
        assert hasattr(torch.ops.svdprune, name)


def in_a_process_of_its_own(code):
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout, result.stderr


def test_the_import_leaves_the_compiler_out():
    loaded, _ = in_a_process_of_its_own(
        "import sys, svdprune_ext; print(*(m for m in sys.modules if m.startswith('torch._')))"
    )
    assert "torch._library" in loaded.split()
    assert not {"torch._dynamo", "torch._inductor"} & set(loaded.split())


def test_a_second_import_registers_without_a_warning():
    code = (
        "import importlib, sys\n"
        "import svdprune_ext\n"
        "importlib.reload(svdprune_ext)\n"
        "for name in [name for name in sys.modules if name.startswith('svdprune_ext')]:\n"
        "    del sys.modules[name]\n"
        "import torch, svdprune_ext\n"
        "print(svdprune_ext.prune(torch.eye(4), 2).tokens.shape)"
    )
    out, warned = in_a_process_of_its_own(code)
    assert out == "torch.Size([2, 4])\n"
    assert "previously registered" not in warned


def test_a_missing_library_tells_how_to_build(tmp_path):
    with pytest.raises(ImportError, match=r"_C\.so is not built") as error:
        _load.load_libraries(folder=tmp_path)
    message = str(error.value)
    assert f"`{COMMAND}`" in message
    assert one_sentence(message)


def test_a_library_that_does_not_fit_tells_how_to_rebuild(tmp_path):
    (tmp_path / "_C.so").write_bytes(b"\x7fELF of some other machine")
    with pytest.raises(ImportError, match=r"_C\.so does not fit torch") as error:
        _load.load_libraries(folder=tmp_path)
    assert torch.__version__ in str(error.value)
    assert f"`{COMMAND}`" in str(error.value)
    assert isinstance(error.value.__cause__, OSError)


def test_a_missing_native_module_tells_how_to_build(monkeypatch):
    def missing(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(_load.importlib, "import_module", missing)
    with pytest.raises(ImportError, match="_native is not built for this Python") as error:
        _load.load_native()
    assert f"`{COMMAND}`" in str(error.value)


def test_every_source_is_listed_once():
    listed = (CSRC / "sources.txt").read_text().split()
    there = {
        str(path.relative_to(CSRC)) for path in CSRC.rglob("*") if path.suffix in {".cpp", ".cu"}
    }
    assert len(listed) == len(set(listed))
    assert set(listed) == there


def test_every_public_name_is_there():
    assert sorted(svdprune.__all__) == svdprune.__all__
    for name in svdprune.__all__:
        assert hasattr(svdprune, name)


@pytest.mark.skipif(svdprune.has_cuda, reason="this build has a CUDA backend")
@pytest.mark.parametrize(
    "op", ["leverage_scores", "diagnose", "prune", "prune_adaptive", "prune_varlen"]
)
def test_cuda_tensors_are_refused_without_a_cuda_backend(op):
    # There is no CUDA tensor to call it with: the kernel that the dispatcher would choose.
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"svdprune::{op}", "CUDA")
    with pytest.raises(RuntimeError, match=f"svdprune::{op}: x must be on the CPU, got a CUDA"):
        _register._refuse_cuda(op)(None)


def test_shapes_of_cuda_tensors_are_still_inferred():
    with FakeTensorMode():
        x = torch.empty(2, 5, 4, device="cuda")
        assert svdprune.prune(x, 3).tokens.shape == (2, 3, 4)
