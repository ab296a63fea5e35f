"""Threads, processes and memory."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from samples import gaussian, power_law

import svdprune_ext as svdprune


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def run(code):
    """Runs code in a fresh interpreter, whose threads, forks and memory are its own."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("shape", [(5, 60, 80), (60, 80), (2, 200, 30)], ids=str)
def test_number_of_threads_changes_nothing(shape):
    x = gaussian(*shape)
    threads = torch.get_num_threads()
    results = []
    try:
        for n in (1, 2, 4):
            torch.set_num_threads(n)
            results.append(svdprune.prune(x, 9))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert torch.equal(other.rank, results[0].rank)
        assert torch.equal(other.indices, results[0].indices)
        assert torch.equal(other.tokens, results[0].tokens)
        torch.testing.assert_close(other.scores, results[0].scores, atol=1e-5, rtol=0)


@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize("width", [400, 1100])  # in one slice, in two
def test_the_parts_of_an_image_are_the_same_for_any_number_of_threads(images, width):
    # Large enough for every phase to have several parts; one is flat, and is reduced to the end.
    decay = power_law(300, 2.0).float()[:, None]
    x = torch.stack([gaussian(300, width), decay * gaussian(300, width)])
    threads = torch.get_num_threads()
    results = []
    try:
        for n in (1, 2, 3, 8):
            torch.set_num_threads(n)
            results.append([svdprune.leverage_scores(b) for b in x.split(images)])
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        for got, expected in zip(other, results[0], strict=True):
            assert torch.equal(got.scores, expected.scores)
            assert torch.equal(got.rank, expected.rank)


def test_the_features_side_is_the_same_for_any_number_of_threads():
    # Several strips of tokens; directions so weak that the basis has to be whitened.
    x = gaussian(1100, 64) * power_law(64, 2.0).float()
    threads = torch.get_num_threads()
    results = []
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            results.append(svdprune.leverage_scores(x, variance=0.9999).scores)
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert torch.equal(other, results[0])


def test_an_image_gets_no_thread_where_the_pool_is_taken():
    # Autograd's and DataLoader's threads may run an op inside a parallel region, where the pool runs all
    # slots one after the other.
    script = """
import torch, svdprune_ext
torch.set_num_threads(4)
x = torch.randn(300, 400, generator=torch.Generator().manual_seed(0))
expected = svdprune_ext.prune(x, 9).indices
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(8) as pool:
    for got in pool.map(lambda _: svdprune_ext.prune(x, 9).indices, range(200)):
        assert torch.equal(got, expected)
"""
    run(script)


@pytest.mark.usefixtures("one_thread")
def test_batch_equals_loop_to_the_bit_on_one_thread():
    x = gaussian(4, 50, 64)
    batch = svdprune.prune(x, 9)
    for b in range(4):
        alone = svdprune.prune(x[b], 9)
        assert torch.equal(batch.scores[b], alone.scores)
        assert torch.equal(batch.indices[b], alone.indices)


def test_calls_from_several_threads_at_once():
    inputs = [gaussian(2, 40 + i, 48, seed=i) for i in range(8)]
    expected = [svdprune.prune(x, 9) for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            for out, alone in zip(
                pool.map(lambda x: svdprune.prune(x, 9), inputs), expected, strict=True
            ):
                assert torch.equal(out.indices, alone.indices)
                torch.testing.assert_close(out.scores, alone.scores, atol=1e-5, rtol=0)


def test_an_error_in_one_thread_stays_there():
    good, bad = gaussian(3, 20, 24), torch.full((3, 20, 24), float("nan"))

    def call(x):
        try:
            return svdprune.prune(x, 5).indices
        except ValueError as error:
            return str(error)

    expected = svdprune.prune(good, 5).indices
    with ThreadPoolExecutor(4) as pool:
        for x, out in zip([good, bad] * 8, pool.map(call, [good, bad] * 8), strict=True):
            if x is good:
                assert torch.equal(out, expected)
            else:
                assert "got NaN or Inf in image 0 of x" in out


def test_workers_of_a_data_loader_can_call_it():
    # A worker is forked after the parent has used its threads, which do not survive the fork.
    out = run("""
import torch
import svdprune_ext as svdprune

class Images(torch.utils.data.Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, i):
        x = torch.randn(2, 40, 48, generator=torch.Generator().manual_seed(i))
        return svdprune.prune(x, 5).indices

images = Images()
expected = torch.stack([images[i] for i in range(4)])
loader = torch.utils.data.DataLoader(
    images, batch_size=2, num_workers=2, multiprocessing_context="fork", timeout=40
)
print(torch.equal(torch.cat(list(loader)), expected))
""")
    assert out.strip() == "True"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(
    ("solver", "decay", "limit"),
    [
        # A quarter of a matrix, 4 MB, is left for what BLAS and the allocator keep of their own.
        ("tridiag", 1.0, 1.25),  # few directions: the Gram matrix and little more
        ("tridiag", 0.0, 2.25),  # many: the Gram matrix and the basis
        ("eigh", 0.0, 3.25),  # LAPACK's divide and conquer asks for 2 beside the Gram matrix
    ],
)
def test_peak_memory_in_gram_matrices(solver, decay, limit):
    # VmHWM and not ru_maxrss: that is inherited from the process that started this one.
    out = run(
        f"solver, decay = {solver!r}, {decay}"
        + """
import torch
import svdprune_ext as svdprune

def kib(field):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(field + ":"))

torch.set_num_threads(1)
svdprune.leverage_scores(torch.randn(900, 1000), solver=solver)  # so that BLAS has its buffers
x = torch.randn(2000, 2048) @ (torch.arange(1, 2049) ** -decay).diag()
with open("/proc/self/clear_refs", "w") as clear:
    clear.write("5")  # the high-water mark begins anew
before = kib("VmRSS")
svdprune.leverage_scores(x, solver=solver)
print((kib("VmHWM") - before) * 1024 / (2000 * 2000 * 4))
"""
    )
    print(solver, decay, out)
    assert 0.9 < float(out) <= limit
