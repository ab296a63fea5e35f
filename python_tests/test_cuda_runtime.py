"""What a caller's runtime sees of the CUDA backend: streams, graphs, threads, devices, memory, waiting."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import pytest
import torch
from cuda_calls import OPS, assert_same_bits, every_op, features, needs_cuda, operator_calls
from samples import gaussian

import svdprune_ext as svdprune
from svdprune_ext.reference import oracle_leverage

pytestmark = needs_cuda
BUSY_CYCLES = 500_000_000  # a quarter of a second or so
MEBIBYTE = 2**20


def cloned(result):
    return tuple(t.clone() for t in result)


@every_op
def test_a_side_stream_gives_the_same(name):
    call, x = operator_calls()[name], features()
    expected = call(x)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        # x comes late on this stream only: a kernel on any other would read zeros.
        late = torch.zeros_like(x)
        torch.cuda._sleep(BUSY_CYCLES // 10)
        late.copy_(x)
        got = call(late)
    torch.cuda.current_stream().wait_stream(side)
    assert_same_bits(got, expected)


def assert_replays(call, inputs):
    """A graph that was captured with the first input gives for all others what eager calls give."""
    static = inputs[0].clone()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        call(static)
    torch.cuda.current_stream().wait_stream(side)

    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = call(static)
    for x in inputs[1:]:
        static.copy_(x)
        graph.replay()
        replayed = cloned(out)
        assert_same_bits(replayed, call(x))


@every_op
def test_a_captured_graph_replays_to_what_eager_gives(name):
    assert_replays(operator_calls()[name], [features(seed) for seed in range(4)])


@pytest.mark.parametrize("shape", [(3, 1100, 56), (1, 2880, 576)], ids=str)
def test_so_does_one_of_more_tokens_than_fit_on_chip(shape):
    assert_replays(
        lambda x: svdprune.prune(x, 9), [gaussian(*shape, seed=s).cuda() for s in range(3)]
    )


def test_a_graph_outlives_calls_of_other_shapes():
    x = features()
    svdprune.prune(x, 9)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = svdprune.prune(x, 9)
    expected = svdprune.prune(x, 9)
    for shape in ((1, 200, 64), (4, 30, 300), (16, 64, 64)):
        svdprune.prune(gaussian(*shape).cuda(), 9)
    graph.replay()
    assert_same_bits(out, expected)


def test_a_capture_that_would_wait_is_refused_and_ends_cleanly():
    x = gaussian(1, 576, 1024).cuda()
    svdprune.prune(x, 9, solver="eigh")
    graph = torch.cuda.CUDAGraph()
    with pytest.raises(RuntimeError, match="<= 512 in a CUDA graph"), torch.cuda.graph(graph):
        svdprune.prune(x, 9, solver="eigh")
    with torch.cuda.graph(torch.cuda.CUDAGraph()):
        svdprune.prune(x, 9)


def test_calls_from_two_threads_at_once():
    inputs = [features(seed) for seed in range(8)]
    calls = operator_calls()
    expected = {name: [calls[name](x) for x in inputs] for name in OPS}
    torch.cuda.synchronize()

    def work(first):
        with torch.cuda.stream(torch.cuda.Stream()):
            results = [
                (name, i, calls[name](inputs[i])) for i in range(first, 8, 2) for name in OPS
            ]
            torch.cuda.current_stream().synchronize()
        return results

    with ThreadPoolExecutor(2) as pool:
        for _ in range(5):
            for results in pool.map(work, (0, 1)):
                for name, i, got in results:
                    assert_same_bits(got, expected[name][i])


@every_op
def test_a_device_that_is_not_the_current_one(name):
    if torch.cuda.device_count() < 2:
        pytest.skip("there is one GPU only")
    other = torch.device("cuda", 1)
    got = operator_calls(other)[name](features(device=other))
    assert all(t.device == other for t in got)
    assert torch.cuda.current_device() == 0
    expected = operator_calls()[name](features())
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a.cpu(), b.cpu(), atol=1e-5, rtol=0)


@every_op
def test_all_memory_goes_back(name):
    call, x = operator_calls()[name], features()
    call(x)  # makes library handles and workspaces, once
    torch.cuda.synchronize()
    allocated, reserved = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    free, _ = torch.cuda.mem_get_info()
    for _ in range(20):
        call(x)
        assert torch.cuda.memory_allocated() == allocated
    torch.cuda.synchronize()
    assert torch.cuda.memory_reserved() == reserved
    # What was taken past torch's allocator; other processes may move it a little.
    assert free - torch.cuda.mem_get_info()[0] < 32 * MEBIBYTE


@pytest.mark.parametrize(
    ("solver", "shape"),
    [
        *product(["eigh", "tridiag"], [(2, 40, 56), (2, 56, 40)]),
        ("eigh", (1, 512, 1024)),  # cuSOLVER waits where there are more
        ("tridiag", (1, 576, 1024)),
        ("auto", (1, 576, 1024)),
        ("auto", (2, 1100, 56)),
        ("purify", (2, 40, 56)),
    ],
    ids=str,
)
@pytest.mark.parametrize("op", ["leverage_scores", "prune", "prune_adaptive"])
def test_a_warm_call_does_not_wait_for_the_device(solver, op, shape):
    x = gaussian(*shape).cuda()
    call = {
        "leverage_scores": lambda: svdprune.leverage_scores(x, solver=solver),
        "prune": lambda: svdprune.prune(x, 9, solver=solver),
        "prune_adaptive": lambda: svdprune.prune_adaptive(x, 9, coverage=0.4, solver=solver),
    }[op]
    assert_does_not_wait(call)


@pytest.mark.parametrize("name", ["prune_varlen", "prune_varlen tridiag", "prune_varlen purify"])
def test_a_warm_varlen_call_that_is_told_its_totals_does_not_wait(name):
    call, x = operator_calls()[name], features()
    assert_does_not_wait(lambda: call(x))


TF32_SCRIPT = """
import sys, torch, svdprune_ext
sys.path.insert(0, sys.argv[1])
from samples import gaussian
torch.save(svdprune_ext.leverage_scores(gaussian(2, 80, 256).cuda(), solver="eigh").scores.cpu(), sys.argv[2])
"""


def test_tf32_is_used_where_the_environment_allows_it(tmp_path):
    scores = {}
    for allowed in ("0", "1"):
        file = tmp_path / allowed
        subprocess.run(
            [sys.executable, "-c", TF32_SCRIPT, str(Path(__file__).parent), str(file)],
            env={**os.environ, "SVDPRUNE_ALLOW_TF32": allowed},
            check=True,
            timeout=60,
        )
        scores[allowed] = torch.load(file)
    x = gaussian(2, 80, 256)
    exact = torch.stack([oracle_leverage(image).scores for image in x]).float()
    torch.testing.assert_close(scores["0"], exact, atol=2e-4, rtol=0)
    torch.testing.assert_close(scores["1"], exact, atol=5e-2, rtol=0)
    if torch.cuda.get_device_capability() >= (8, 0):
        assert (scores["1"] - exact).abs().max() > (scores["0"] - exact).abs().max()


def assert_does_not_wait(call):
    call()
    torch.cuda.synchronize()
    done = torch.cuda.Event()
    torch.cuda.set_sync_debug_mode("error")  # torch's own waiting raises
    try:
        torch.cuda._sleep(BUSY_CYCLES)
        call()
        done.record()
        # Any other waiting, a library's say, would have lasted until the sleep was over.
        returned_early = not done.query()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize()
    assert returned_early, "the call returned only when the device was done"
