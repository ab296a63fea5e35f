"""``rater_scores`` on the CPU against the float64 oracle, by hand, by invariants, and inside PyTorch."""

import math
import os
import re
from pathlib import Path

import pytest
import torch
from rater_samples import RaterSample, error_bound, rater_sample, rater_samples
from samples import gaussian
from torch.library import opcheck

import svdprune_ext as svdprune
from svdprune_ext.reference import oracle_rater_scores

op = torch.ops.svdprune.rater_scores
SAMPLES = rater_samples()
every_sample = pytest.mark.parametrize("sample", SAMPLES, ids=str)
FEW = [
    "plain",
    "no_cache",
    "padded_left",
    "mask_of_heads",
    "some_heads",
    "no_raters",
    "float64",
    "bfloat16",
]
few_samples = pytest.mark.parametrize("sample", [rater_sample(name) for name in FEW], ids=str)


def positional(tensors, options):
    """Arguments in the schema's order, and the others by name."""
    rest = {name: value for name, value in options.items() if name in ("causal", "scale")}
    return (*tensors, options.get("mask"), options.get("head_weights")), rest


@every_sample
def test_every_sample_agrees_with_the_oracle(sample):
    tensors, options = sample.make()
    before = [t.clone() for t in tensors]
    out = svdprune.rater_scores(*tensors, **options)
    expected = oracle_rater_scores(*tensors, **options)
    dtype = torch.float64 if tensors[0].dtype == torch.float64 else torch.float32
    bound = error_bound(*tensors[:2], options.get("scale"))
    for got, wanted in zip(out, expected, strict=True):
        assert got.dtype == dtype
        assert got.is_contiguous()
        torch.testing.assert_close(got.double(), wanted, rtol=bound, atol=1e-12)
    for tensor, copy in zip(tensors, before, strict=True):
        assert torch.equal(tensor, copy)


def test_by_hand():
    # Two heads, three keys, one number each: the logits are the keys times the query.
    q = torch.tensor([[[[0.0], [1.0]], [[0.0], [2.0]]]])  # [1, 2, 2, 1]
    k = torch.tensor([[[[0.0], [math.log(2)], [math.log(3)]]]])  # one key head
    out = svdprune.rater_scores(q, k, torch.tensor([[1, 0]]), torch.tensor([[2, -1, 0]]), scale=1.0)
    # Query 1 sees all keys, 1 : 2 : 3 in head 0 and 1 : 4 : 9 in head 1; query 0 sees keys 0 and 1 alike.
    paid = torch.tensor([[3 / 6 + 9 / 14, 0, 1 / 6 + 1 / 14], [0, 0, 1 / 2 + 1 / 2]]) / 2
    torch.testing.assert_close(out.attention, paid[None])
    torch.testing.assert_close(out.scores, paid.mean(0)[None])
    torch.testing.assert_close(out.head_mass, torch.tensor([[4 / 6 + 1 / 2, 10 / 14 + 1 / 2]]) / 2)


def test_all_columns_sum_to_one():
    q, k = gaussian(2, 4, 30, 16), gaussian(2, 2, 50, 16, seed=1)
    raters, visual = torch.tensor([[29, 3, -1], [0, 10, 20]]), torch.arange(50).repeat(2, 1)
    out = svdprune.rater_scores(q, k, raters, visual)
    torch.testing.assert_close(out.attention.sum(-1), (raters >= 0).float())
    torch.testing.assert_close(out.scores.sum(-1), torch.ones(2))
    torch.testing.assert_close(out.head_mass, torch.ones(2, 4))


def test_the_mass_of_the_heads_is_that_of_the_scores():
    tensors, options = rater_sample("padded_left").make()
    out = svdprune.rater_scores(*tensors, **options)
    torch.testing.assert_close(out.head_mass.mean(-1), out.scores.sum(-1))


def test_order_padding_and_company_change_no_bit():
    q, k = gaussian(3, 4, 30, 16), gaussian(3, 2, 30, 16, seed=1)
    raters, visual = torch.tensor([[29, 3, 17]] * 3), torch.arange(20).repeat(3, 1) + 4
    out = svdprune.rater_scores(q, k, raters, visual)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    shuffled = svdprune.rater_scores(q, k, raters.flip(1), visual[:, order])
    assert torch.equal(shuffled.attention, out.attention.flip(1)[..., order])
    padded = svdprune.rater_scores(
        q,
        k,
        torch.nn.functional.pad(raters, (1, 2), value=-1),
        torch.nn.functional.pad(visual, (2, 1), value=-1),
    )
    assert torch.equal(padded.attention[:, 1:4, 2:-1], out.attention)
    assert torch.equal(padded.scores[:, 2:-1], out.scores)
    assert not padded.scores[:, [0, 1, -1]].any()
    assert not padded.attention[:, [0, 4, 5]].any()
    alone = svdprune.rater_scores(q[1:2], k[1:2], raters[1:2], visual[1:2])
    assert torch.equal(alone.attention[0], out.attention[1])


def test_twice_the_same_token_has_twice_the_same_score():
    q, k = gaussian(1, 2, 9, 8), gaussian(1, 2, 9, 8, seed=1)
    out = svdprune.rater_scores(q, k, torch.tensor([[8, 8]]), torch.tensor([[4, 5, 4]]))
    assert torch.equal(out.attention[0, 0], out.attention[0, 1])
    assert torch.equal(out.attention[..., 0], out.attention[..., 2])


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str
)
@pytest.mark.parametrize(
    "view", ["transposed", "sliced", "features_apart", "expanded", "flipped_memory"]
)
def test_any_strides(dtype, view):
    raters, visual = torch.tensor([[8, 2], [5, -1]]), torch.arange(9).repeat(2, 1)
    big = gaussian(2, 18, 8, 32).to(dtype)
    q = {
        "transposed": big.transpose(1, 2)[:, :4, :9, :16],
        "sliced": big[:, 1:10:2, :, 3:19][:, :4].repeat(1, 1, 2, 1)[:, :, :9],
        "features_apart": big[:, :4].repeat(1, 1, 2, 1)[:, :, :9, ::2],
        "expanded": big[:1, :1].repeat(1, 1, 2, 1)[:, :, :9, :16].expand(2, 4, 9, 16),
        "flipped_memory": big[:, :16, :4, :9].permute(0, 2, 3, 1),
    }[view]
    k = q[:, :2] * 1
    for keys in (k, q[:, 1:3]):
        out = svdprune.rater_scores(q, keys, raters, visual)
        dense = svdprune.rater_scores(q.contiguous(), keys.contiguous(), raters, visual)
        for strided, contiguous in zip(out, dense, strict=True):
            torch.testing.assert_close(strided, contiguous, rtol=1e-5, atol=1e-7)


def test_positions_and_masks_of_any_strides():
    tensors, options = rater_sample("mask_of_heads").make()
    q, k, raters, visual = tensors
    mask = options["mask"].permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)
    strided = (raters.mT.contiguous().mT, visual.repeat_interleave(2, 1)[:, ::2])
    expected = svdprune.rater_scores(*tensors, **options)
    out = svdprune.rater_scores(q, k, *strided, mask=mask)
    assert all(torch.equal(a, b) for a, b in zip(out, expected, strict=True))


def test_a_row_without_keys_pays_nothing_and_counts():
    q, k, _, visual = rater_sample("no_cache").make()[0]
    raters = torch.tensor([[3, 5], [3, 5]])
    mask = torch.ones(2, 1, 12, 12, dtype=torch.bool)
    mask[0, :, 3] = False
    out = svdprune.rater_scores(q, k, raters, visual, mask=mask)
    assert not out.attention[0, 0].any()
    torch.testing.assert_close(out.scores[0], out.attention[0, 1] / 2)


def test_nan_stays_in_the_rows_that_see_it():
    q, k, _, _ = rater_sample("no_cache").make()[0]
    k[0, :, 6] = float("nan")
    raters, visual = torch.tensor([[5, 6], [5, 6]]), torch.arange(6).repeat(2, 1)
    out = svdprune.rater_scores(q, k, raters, visual)
    assert out.attention[0, 1].isnan().all()
    assert not out.attention[0, 0].isnan().any()
    assert not out.attention[1].isnan().any()
    seen = torch.arange(12) != 6
    hidden = svdprune.rater_scores(q, k, raters, visual, mask=seen.repeat(2, 1))
    assert not hidden.attention.isnan().any()


def test_an_infinite_product_makes_its_row_nan():
    q, k = torch.full((1, 1, 2, 8), 2e19), torch.zeros(1, 1, 2, 8)
    k[..., 1, :] = 2e19
    out = svdprune.rater_scores(q, k, torch.tensor([[0, 1]]), torch.tensor([[0, 1]]))
    assert out.attention[0, 0].tolist() == [1, 0]
    assert out.attention[0, 1, 1].isnan()


def test_threads_change_no_bit():
    tensors, options = rater_sample("llava").make()
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            results.append(svdprune.rater_scores(*tensors, **options))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_no_row_is_held_over_all_keys():
    """64 rows of 400 000 keys would be 100 MB; the visual columns of them are 4 kB."""
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not os.access(reset, os.W_OK):
        pytest.skip("needs /proc to measure the peak of memory in use")

    def in_use(kind):
        return int(re.search(rf"{kind}:\s+(\d+) kB", status.read_text())[1]) / 1000

    q, k = gaussian(1, 1, 64, 8), gaussian(1, 1, 400_000, 8, seed=1)
    places = torch.arange(64)[None], torch.arange(16)[None]
    reset.write_text("5")  # the peak starts anew
    before = in_use("VmRSS")
    svdprune.rater_scores(q, k, *places)
    assert in_use("VmHWM") - before < 20


# Inside PyTorch.


@few_samples
@pytest.mark.parametrize("grad", [False, True], ids=["plain", "requires_grad"])
def test_opcheck(sample, grad):
    tensors, options = sample.make()
    tensors[0].requires_grad_(grad)
    args, kwargs = positional(tensors, options)
    opcheck(op.default, args, kwargs)


@every_sample
def test_fake_and_meta_agree_with_the_kernel(sample):
    args, kwargs = positional(*sample.make())
    meta = op(*(a.to("meta") if isinstance(a, torch.Tensor) else a for a in args), **kwargs)
    for real, fake in zip(op(*args, **kwargs), meta, strict=True):
        assert (real.shape, real.dtype, real.stride()) == (fake.shape, fake.dtype, fake.stride())


def test_the_scores_have_no_gradient():
    tensors, options = rater_sample("plain").make()
    tensors[0].requires_grad_()
    assert not any(t.requires_grad for t in svdprune.rater_scores(*tensors, **options))


def test_autocast_changes_no_bit():
    tensors, options = rater_sample("padded_left").make()
    expected = svdprune.rater_scores(*tensors, **options)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = svdprune.rater_scores(*tensors, **options)
    for a, b in zip(expected, cast, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


def test_compiles_without_a_break_for_any_length():
    @torch.compile(fullgraph=True, dynamic=True)
    def pruned(q, k, text, keep):
        length = q.shape[2]
        place = torch.arange(length).masked_fill(~text, length).sort(-1).values
        raters = place.masked_fill(place == length, -1)
        visual = torch.arange(length).expand(len(q), -1)
        return svdprune.rater_scores(q, k, raters, visual).scores.topk(keep).indices

    for length in (12, 19):
        q, k = gaussian(2, 4, length, 8), gaussian(2, 2, length, 8, seed=1)
        text = torch.arange(length) > torch.tensor([[6], [8]])
        raters = torch.where(text, torch.arange(length), -1)
        visual = torch.arange(length).repeat(2, 1)
        expected = svdprune.rater_scores(q, k, raters, visual).scores.topk(3).indices
        assert torch.equal(pruned(q, k, text, 3), expected)


@pytest.mark.parametrize("flushed", [False, True])
def test_float16_numbers_below_its_normal_ones_count(flushed):
    q = torch.full((1, 1, 1, 8), 1e-5).half()
    k = (1000 * torch.arange(48.0)).view(1, 1, 6, 8).half()
    places = torch.tensor([[0]]), torch.arange(6)[None]
    expected = (10 * q.double() @ k.double().mT).softmax(-1)[0, :, 0]
    torch.set_flush_denormal(flushed)
    try:
        scores = svdprune.rater_scores(q, k, *places, causal=False, scale=10.0).scores
    finally:
        torch.set_flush_denormal(False)
    torch.testing.assert_close(scores, expected.float(), atol=1e-6, rtol=1e-5)


def test_flash_attention_beside_it_sees_the_same_softmax():
    # Values that are unit vectors make scaled_dot_product_attention return its own attention.
    q, k = gaussian(2, 4, 12, 16), gaussian(2, 4, 12, 16, seed=1)
    v = torch.eye(12).expand(2, 4, 12, 12)
    attention = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    raters, visual = torch.tensor([[4, 11]] * 2), torch.arange(12).repeat(2, 1)
    out = svdprune.rater_scores(q, k, raters, visual)
    torch.testing.assert_close(
        out.attention, attention[:, :, [4, 11]].mean(1), atol=1e-6, rtol=1e-5
    )


def test_samples_have_names_of_their_own():
    names = [sample.name for sample in SAMPLES]
    assert len(set(names)) == len(names)
    assert all(isinstance(sample, RaterSample) for sample in SAMPLES)
