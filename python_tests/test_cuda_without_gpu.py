"""CUDA tensors where there is no GPU: shapes, graphs, and whether the real library loads."""

from functools import partial

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from typer.testing import CliRunner

import svdprune_ext as svdprune
from svdprune_ext import cli

OPERATORS = (
    *("leverage_scores", "diagnose", "prune", "prune_adaptive", "prune_varlen"),
    *("rater_scores", "rater_scores_by_head"),
)
INT = torch.int64
# make(shape, [dtype]): zeros on one device, of x's dtype where none is given.
CALLS = {
    "leverage_scores": lambda make: svdprune.leverage_scores(make(2, 40, 56)),
    "diagnose": lambda make: torch.ops.svdprune.diagnose(make(2, 40, 56)),
    "prune": lambda make: svdprune.prune(make(40, 56), 9),
    "prune pivoted": lambda make: svdprune.prune(make(2, 40, 56), 9, select="pivoted"),
    "prune_adaptive": lambda make: svdprune.prune_adaptive(make(2, 40, 56), 9, coverage=0.4),
    "prune_varlen": lambda make: svdprune.prune_varlen(
        make(0, 56), make(4, dtype=INT), make(4, dtype=INT), total_keep=0, max_seqlen=0
    ),
    "rater_scores": lambda make: svdprune.rater_scores(*attention(make)),
    "rater_scores_by_head": lambda make: (svdprune.rater_scores_by_head(*attention(make)),),
}


def attention(make):
    return make(2, 4, 9, 8), make(2, 2, 12, 8), make(2, 5, dtype=INT), make(2, 7, dtype=INT)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float64], ids=str)
def test_fake_cuda_tensors_get_the_shapes_and_types_of_the_cpu(name, dtype):
    real = CALLS[name](partial(torch.zeros, dtype=dtype))
    with FakeTensorMode():
        fake = CALLS[name](
            lambda *shape, dtype=dtype: torch.empty(shape, dtype=dtype, device="cuda")
        )
    assert all(t.device == torch.device("cuda", 0) for t in fake)
    assert [(t.shape, t.dtype) for t in fake] == [(t.shape, t.dtype) for t in real]


class Encoder(torch.nn.Module):
    def forward(self, x):
        out = svdprune.prune(x * 2, 6)
        return out.tokens.sin(), out.indices


def test_export_traces_fake_cuda_tensors():
    with FakeTensorMode():
        x = torch.empty(2, 40, 56, device="cuda")
    program = torch.export.export(Encoder(), (x,))
    node = next(n for n in program.graph.nodes if n.target == torch.ops.svdprune.prune.default)
    assert all(t.device.type == "cuda" for t in node.meta["val"])


needs_library_alone = pytest.mark.skipif(
    not svdprune.has_cuda or torch.cuda.is_available(),
    reason="there is a GPU"
    if torch.cuda.is_available()
    else "svdprune_ext was built without the CUDA backend (SVDPRUNE_CUDA=ON builds it)",
)


@needs_library_alone
def test_the_library_registers_every_operator():
    for name in OPERATORS:
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"svdprune::{name}", "CUDA"), name


@needs_library_alone
def test_info_says_that_there_is_no_gpu():
    shown = " ".join(CliRunner(env={"COLUMNS": "200"}).invoke(cli.app, ["info"]).stdout.split())
    assert "built, but torch sees no GPU" in shown
