"""``rater_scores``, also by head, of the CUDA backend: on a GPU, where a graph captures it, and emulated."""

import pytest
import torch
from backends import on_backends
from cuda_calls import assert_same_bits, needs_cuda
from rater_samples import error_bound, rater_sample, rater_samples
from torch.library import opcheck

import svdprune_ext as svdprune
from svdprune_ext.reference import oracle_rater_scores, oracle_rater_scores_by_head


def on_gpu(tensors, options):
    moved = {name: v.cuda() if isinstance(v, torch.Tensor) else v for name, v in options.items()}
    return [t.cuda() for t in tensors], moved


def is_quick(sample):
    return sample.name not in ("many_raters", "many_keys", "llava", "heads_share_a_key_head")


@on_backends("sample", rater_samples(), is_quick)
def test_every_sample_agrees_with_the_oracle(backend, sample):
    tensors, options = sample.make()
    moved = [backend.put(t) for t in tensors]
    with_options = {name: backend.put(value) for name, value in options.items()}
    out = svdprune.rater_scores(*moved, **with_options)
    bound = error_bound(*tensors[:2], options.get("scale"))
    for got, wanted in zip(out, oracle_rater_scores(*tensors, **options), strict=True):
        assert got.device.type == backend.device
        torch.testing.assert_close(got.cpu().double(), wanted, rtol=bound, atol=1e-12)
    assert_same_bits(svdprune.rater_scores(*moved, **with_options), out)


@on_backends("sample", [s for s in rater_samples() if s.weights is None], is_quick)
def test_every_sample_agrees_with_the_oracle_by_head(backend, sample):
    tensors, options = sample.make()
    options["divisor"] = torch.rand(1, tensors[2].shape[1], tensors[3].shape[1]) + 0.25
    if tensors[0].dtype == torch.float64:
        options["divisor"] = options["divisor"].double()
    moved = [backend.put(t) for t in tensors]
    with_options = {name: backend.put(value) for name, value in options.items()}
    out = svdprune.rater_scores_by_head(*moved, **with_options)
    wanted = oracle_rater_scores_by_head(*tensors, **options)
    bound = error_bound(*tensors[:2], options.get("scale"))
    torch.testing.assert_close(out.cpu().double(), wanted, rtol=bound, atol=1e-12)
    assert torch.equal(svdprune.rater_scores_by_head(*moved, **with_options), out)


@needs_cuda
@pytest.mark.parametrize("name", ["padded_left", "some_heads", "bfloat16"])
def test_opcheck(name):
    tensors, options = on_gpu(*rater_sample(name).make())
    optional = options.get("mask"), options.get("head_weights")
    opcheck(torch.ops.svdprune.rater_scores.default, (*tensors, *optional), {})


def test_positions_out_of_range_are_padding(backend):
    (q, k, _, _), _ = rater_sample("no_cache").make()
    wild = (
        torch.tensor([[3, 12, -7, 2**40]] * 2),
        torch.tensor([[1, 2**33 + 4, -5]] * 2),
    )
    tame = torch.tensor([[3, -1, -1, -1]] * 2), torch.tensor([[1, -1, -1]] * 2)
    got, expected = (
        svdprune.rater_scores(*(backend.put(t) for t in (q, k, *positions)))
        for positions in (wild, tame)
    )
    assert_same_bits(got, expected)


def test_arguments_are_checked(backend):
    tensors = [backend.put(t) for t in rater_sample("plain").make()[0]]
    with pytest.raises(ValueError, match="rater_scores: k must have q's dtype"):
        svdprune.rater_scores(tensors[0], tensors[1].double(), *tensors[2:])


@needs_cuda
def test_a_captured_graph_follows_queries_raters_and_mask():
    (q, k, raters, visual), options = on_gpu(*rater_sample("padded_left").make())
    mask = options["mask"]
    svdprune.rater_scores(q, k, raters, visual, mask=mask)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = svdprune.rater_scores(q, k, raters, visual, mask=mask)
    for shift in (1, 2):
        q.copy_(q.roll(1, 2))
        raters.copy_(raters.roll(shift, 1).masked_fill(raters == 2, -1))
        mask.copy_(mask.flip(1))
        graph.replay()
        replayed = [t.clone() for t in out]
        assert_same_bits(replayed, svdprune.rater_scores(q, k, raters, visual, mask=mask))
