"""The machine that runs the CUDA kernels on the CPU, by a kernel made for this."""

import pytest
import torch
from emulated import cuda_headers, pass_on, send_all

pytestmark = pytest.mark.skipif(cuda_headers() is None, reason="no CUDA headers found")


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize(("blocks", "cluster"), [(6, 3), (4, 1), (16, 16)])
def test_blocks_of_a_cluster_exchange_shared_memory(library, blocks, cluster, backwards):
    threads = 64
    received, sums = pass_on(library, blocks, threads, cluster, backwards=backwards)
    rank = torch.arange(blocks) % cluster
    number = 1000 * rank[:, None] + torch.arange(threads)
    previous = number.view(-1, cluster, threads).roll(1, dims=1).view(blocks, threads)
    assert torch.equal(received, previous)
    of_warps = number.view(blocks, -1, 32).sum(2, keepdim=True)
    assert torch.equal(sums, of_warps.expand(-1, -1, 32).reshape(blocks, threads))


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize(("blocks", "cluster"), [(6, 3), (2, 1), (8, 8)])
def test_blocks_count_what_arrives_round_by_round(library, blocks, cluster, backwards):
    threads, rounds = 64, 5
    received = send_all(library, blocks, threads, cluster, rounds, backwards=backwards)
    number = 100 * (torch.arange(blocks) % cluster)[:, None] + torch.arange(threads)
    for _ in range(rounds):
        of_cluster = number.view(-1, cluster, threads).sum(1, keepdim=True)
        number = number + of_cluster.expand(-1, cluster, -1).reshape(blocks, threads)
    assert torch.equal(received, number)
