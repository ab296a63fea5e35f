"""The fused Gram kernel, run on the CPU, against products in float64."""

import pytest
import torch
from emulated import Emulated, cuda_headers
from samples import gaussian
from torch import Tensor

pytestmark = pytest.mark.skipif(cuda_headers() is None, reason="no CUDA headers found")

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def check(x: Tensor, gram: Tensor, totals: Tensor) -> None:
    """Against float64: the numbers x are exact, and so are the products; sums alone round."""
    wide = x.double()
    exact, magnitudes = wide @ wide.mT, wide.abs() @ wide.abs().mT
    # A float32 sum of D terms in any order is off by D half-ulps of the sum of magnitudes at most.
    bound = x.shape[-1] * 2.0**-24 * magnitudes
    assert (gram - exact).abs().le(bound).all()
    assert torch.equal(gram, gram.mT)
    kept = gram.double()
    trace = kept.diagonal(dim1=-2, dim2=-1).sum(-1)
    torch.testing.assert_close(totals[:, 0], trace, rtol=1e-14, atol=0)
    torch.testing.assert_close(totals[:, 1], kept.square().sum((1, 2)), rtol=1e-14, atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tokens", [1, 5, 63, 64, 65, 130])
@pytest.mark.parametrize("features", [1, 7, 64, 100])
def test_any_shape(library, dtype, tokens, features):
    x = gaussian(2, tokens, features).to(dtype)
    gram, totals, _ = Emulated(library, x).gram_fused()
    check(x, gram, totals)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("parts", [1, 2, 3, 8])
@pytest.mark.parametrize("clusters", [True, False])
def test_parts_of_the_features(library, dtype, parts, clusters):
    stage = 128 // dtype.itemsize
    x = gaussian(1, 70, (2 * parts + 1) * stage - 3).to(dtype)
    emulated = Emulated(library, x)
    gram, totals, blocks = emulated.gram_fused(clusters=clusters)
    assert blocks == 3 * (parts if clusters else 1)
    check(x, gram, totals)
    backwards, same, _ = emulated.gram_fused(clusters=clusters, backwards=True)
    assert torch.equal(backwards, gram)
    assert torch.equal(same, totals)


@pytest.mark.parametrize(
    ("tokens", "features", "blocks"), [(576, 1024, 45 * 3), (64, 1024, 8), (1024, 4096, 136)]
)
def test_blocks_of_one_image(library, tokens, features, blocks):
    x = torch.empty(1, 1, 1, dtype=torch.bfloat16).expand(1, tokens, features)
    assert Emulated(library, x).gram_fused_partials() == blocks


def test_an_image_of_its_real_size(library):
    x = gaussian(1, 576, 256).to(torch.bfloat16)
    gram, totals, blocks = Emulated(library, x).gram_fused()
    assert blocks == 45 * 2
    check(x, gram, totals)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "view",
    [
        *("transposed", "strided", "expanded", "one token", "reversed"),
        *("aligned part", "shifted part", "shifted rows", "shifted images"),
    ],
)
def test_any_strides(library, dtype, view):
    base = gaussian(2, 70, 48).to(dtype)
    x = {
        "transposed": base.mT.contiguous().mT,
        "strided": gaussian(2, 140, 144).to(dtype)[:, ::2, 1::3],
        "expanded": base[:1].expand(3, -1, -1),
        "one token": base[:, :1].expand(-1, 70, -1),
        "aligned part": gaussian(2, 70, 56).to(dtype)[..., 8:],
        "shifted part": gaussian(2, 70, 56).to(dtype)[..., 1:49],
        "shifted rows": gaussian(2, 70, 50).to(dtype)[..., :48],
        "shifted images": gaussian(2, 70 * 48 + 2).to(dtype)[:, :-2].unflatten(1, (70, 48)),
        "reversed": base.permute(2, 1, 0).contiguous().permute(2, 1, 0),
    }[view]
    gram, totals, _ = Emulated(library, x).gram_fused()
    check(x, gram, totals)


def test_aligned_and_unaligned_rows_give_the_same_bits(library):
    x = gaussian(2, 70, 56).to(torch.float16)
    aligned, totals, _ = Emulated(library, x).gram_fused()
    room = torch.zeros(2, 70, 57, dtype=torch.float16)
    room[..., 1:] = x
    unaligned, same, _ = Emulated(library, room[..., 1:]).gram_fused()
    assert torch.equal(aligned, unaligned)
    assert torch.equal(totals, same)


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_image_is_the_same_in_any_batch(library, dtype):
    x = gaussian(3, 66, 264).to(dtype)
    grams, totals, _ = Emulated(library, x).gram_fused()
    for b in range(3):
        alone, own, _ = Emulated(library, x[b : b + 1]).gram_fused()
        assert torch.equal(alone[0], grams[b])
        assert torch.equal(own[0], totals[b])


@pytest.mark.parametrize("dtype", DTYPES)
def test_packed_images(library, dtype):
    lengths = [17, 0, 1, 130, 64, 5]
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    packed = gaussian(sum(lengths), 72).to(dtype)
    gram, totals, _ = Emulated(library, packed, offsets).gram_fused()
    x = torch.zeros(len(lengths), max(lengths), 72, dtype=dtype)
    for b, length in enumerate(lengths):
        x[b, :length] = packed[offsets[b] : offsets[b + 1]]
    check(x, gram, totals)


def test_offsets_out_of_range_stay_inside_the_tensor(library):
    room = torch.full((60, 8), float("nan"))
    room[20:40] = gaussian(20, 8)
    emulated = Emulated(library, room[20:40], torch.tensor([0, 5, 10, 15, 20]))
    wild = torch.tensor([0, 9, 500, -4, 20])
    emulated._args.cu_seqlens, emulated._args.tokens = wild.data_ptr(), 20
    emulated.tokens = 20
    gram, totals, _ = emulated.gram_fused()
    assert gram.isfinite().all()
    assert totals.isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_shows_in_its_images_trace(library, dtype, bad):
    x = gaussian(3, 70, 40).to(dtype)
    x[1, 66, 33] = bad
    gram, totals, _ = Emulated(library, x).gram_fused()
    assert totals[:, 0].isfinite().tolist() == [True, False, True]
    check(x[::2], gram[::2], totals[::2])


def test_rows_behind_the_end_are_zeros_beside_infinities(library):
    packed = torch.full((9, 8), float("inf"))
    gram, _, _ = Emulated(library, packed, torch.tensor([0, 2, 9])).gram_fused()
    assert gram[0, :2, :2].isinf().all()
    assert not gram[0, 2:].any()
    assert not gram[0, :, 2:].any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_subnormal_and_large_numbers(library, dtype):
    x = torch.tensor([[6e-8, 60000.0, 1.0, -3e-6]]).repeat(1, 3, 4).to(dtype)
    gram, totals, _ = Emulated(library, x).gram_fused()
    check(x, gram, totals)
