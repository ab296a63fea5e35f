"""Bad arguments are refused before any work: which operator, which argument, what was expected and got."""

import re

import pytest
import torch
from samples import gaussian

import svdprune_ext as svdprune

ops = torch.ops.svdprune
X = gaussian(2, 6, 5)
FLAT = gaussian(9, 5)


def offsets(*values, dtype=torch.int64):
    return torch.tensor(values, dtype=dtype)


def varlen(**changes):
    """A right call of prune_varlen, but for the changes."""
    arguments = {
        "x": FLAT,
        "cu_seqlens": offsets(0, 4, 9),
        "cu_keep": offsets(0, 2, 5),
        "total_keep": 5,
        "max_seqlen": 5,
    }
    arguments.update(changes)
    return svdprune.prune_varlen(**arguments)


CALLS = {
    "leverage_scores": lambda x=X, **options: svdprune.leverage_scores(x, **options),
    "prune": lambda x=X, **options: svdprune.prune(x, 3, **options),
    "prune_adaptive": lambda x=X, **options: svdprune.prune_adaptive(
        x, 3, **{"coverage": 0.5, **options}
    ),
    "prune_varlen": lambda x=FLAT, **options: varlen(x=x, **options),
}
every_op = pytest.mark.parametrize("name", CALLS)


def refused(name, message):
    return pytest.raises(ValueError, match=re.escape(f"svdprune::{name}: {message}"))


def test_the_calls_are_right_without_a_change():
    for call in CALLS.values():
        call()


@every_op
@pytest.mark.parametrize(
    ("dtype", "called"),
    [
        (torch.int64, "Long"),
        (torch.int32, "Int"),
        (torch.uint8, "Byte"),
        (torch.bool, "Bool"),
        (torch.complex64, "ComplexFloat"),
        (torch.float8_e4m3fn, "Float8_e4m3fn"),
    ],
    ids=str,
)
def test_dtype(name, dtype, called):
    x = (FLAT if name == "prune_varlen" else X).to(dtype)
    with refused(name, f"x must be float64, float32, float16 or bfloat16, got {called}"):
        CALLS[name](x)


@every_op
@pytest.mark.parametrize("shape", [(), (5,), (2, 2, 9, 5)], ids=str)
def test_dimensions(name, shape):
    shapes = "packed [T, D]" if name == "prune_varlen" else "[B, N, D] or [N, D]"
    with refused(name, f"x must be {shapes}, got shape {list(shape)}"):
        CALLS[name](torch.zeros(shape))


def test_varlen_takes_no_batch():
    with refused("prune_varlen", "x must be packed [T, D], got shape [2, 6, 5]"):
        varlen(x=X)


@pytest.mark.parametrize("name", ["leverage_scores", "prune", "prune_adaptive"])
def test_size(name):
    x = torch.zeros(1, 1).expand(16385, 16390)
    with refused(name, "x must have min(N, D) <= 16384, got N = 16385, D = 16390"):
        CALLS[name](x)


def test_size_for_purify():
    # It works on N x N matrices, whatever D is.
    x = torch.zeros(1, 1).expand(16385, 8)
    with refused("prune", 'x must have N <= 16384 for solver "purify", got N = 16385'):
        svdprune.prune(x, 3, solver="purify")
    with refused("prune_varlen", 'x must have N <= 16384 for solver "purify", got N = 16385'):
        varlen(
            x=x,
            cu_seqlens=offsets(0, 16385),
            cu_keep=offsets(0, 5),
            max_seqlen=16385,
            solver="purify",
        )


def test_extent():
    x = torch.zeros(1, 1).expand(1, 2**31)
    with refused("leverage_scores", "x must have N and D below 2^31, got shape [1, 2147483648]"):
        svdprune.leverage_scores(x)


@every_op
@pytest.mark.parametrize(
    ("variance", "shown"),
    [(0.0, "0"), (-0.5, "-0.5"), (1.5, "1.5"), (float("nan"), "nan"), (float("inf"), "inf")],
)
def test_variance(name, variance, shown):
    with refused(name, f"variance must be in (0, 1], got {shown}"):
        CALLS[name](variance=variance)


@every_op
@pytest.mark.parametrize("rank", [0, -1, 6, 2**40])
def test_rank(name, rank):
    limit = "D" if name == "prune_varlen" else "min(N, D)"
    with refused(name, f"rank must be in [1, {limit}] = [1, 5], got {rank}"):
        CALLS[name](rank=rank)


@every_op
@pytest.mark.parametrize("solver", ["svd", "", "AUTO"])
def test_solver(name, solver):
    with refused(name, f'solver must be "auto", "tridiag", "eigh" or "purify", got "{solver}"'):
        CALLS[name](solver=solver)


every_selecting_op = pytest.mark.parametrize("name", ["prune", "prune_adaptive", "prune_varlen"])


@every_selecting_op
def test_select(name):
    with refused(name, 'select must be "topk" or "pivoted", got "best"'):
        CALLS[name](select="best")


@every_selecting_op
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"variance": 0.8}, "variance must be left out"),
        ({"rank": 2}, "rank must be left out"),
        ({"solver": "eigh"}, 'solver must be "auto"'),
    ],
)
def test_pivoted_goes_without(name, options, expected):
    (given,) = options.values()
    shown = f'"{given}"' if isinstance(given, str) else given
    unused = f'for select "pivoted", which needs no leading directions, got {shown}'
    with refused(name, f"{expected} {unused}"):
        CALLS[name](select="pivoted", **options)


def test_pivoted_works_on_the_tokens_side():
    x = torch.zeros(1, 1).expand(16385, 2)
    with refused("prune", 'x must have N <= 16384 for select "pivoted", got N = 16385'):
        svdprune.prune(x, 3, select="pivoted")


@pytest.mark.parametrize("keep", [-1, 7, 2**40])
@pytest.mark.parametrize("x", [X, X[0]], ids=["batch", "image"])
def test_keep(x, keep):
    with refused("prune", f"keep must be in [0, N] = [0, 6], got {keep}"):
        svdprune.prune(x, keep)
    with refused("prune_adaptive", f"max_keep must be in [0, N] = [0, 6], got {keep}"):
        svdprune.prune_adaptive(x, keep, coverage=0.5)


@pytest.mark.parametrize(
    ("coverage", "shown"), [(0.0, "0"), (-1.0, "-1"), (1.25, "1.25"), (float("nan"), "nan")]
)
def test_coverage(coverage, shown):
    with refused("prune_adaptive", f"coverage must be in (0, 1], got {shown}"):
        svdprune.prune_adaptive(X, 3, coverage=coverage)


def test_coverage_has_no_default():
    with pytest.raises(TypeError, match="coverage"):
        svdprune.prune_adaptive(X, 3)


def test_a_number_just_out_of_range_is_shown_as_it_is():
    with refused("prune", "variance must be in (0, 1], got 1.0000001"):
        svdprune.prune(X, 3, variance=1.0000001)


VARLEN = {
    "cu_seqlens_float": (
        {"cu_seqlens": offsets(0, 4, 9, dtype=torch.float32)},
        "cu_seqlens must be int32 or int64, got Float",
    ),
    "cu_seqlens_float_alone": (
        {"cu_seqlens": offsets(0, 4, 9, dtype=torch.float32), "max_seqlen": None},
        "cu_seqlens must be int32 or int64, got Float",
    ),
    "cu_keep_int16": (
        {"cu_keep": offsets(0, 2, 5, dtype=torch.int16)},
        "cu_keep must be int32 or int64, got Short",
    ),
    "cu_seqlens_2d": (
        {"cu_seqlens": offsets(0, 4, 9)[None]},
        "cu_seqlens must be [B + 1], got shape [1, 3]",
    ),
    "cu_keep_0d": ({"cu_keep": torch.tensor(5)}, "cu_keep must be [B + 1], got shape []"),
    "cu_seqlens_empty": ({"cu_seqlens": offsets()}, "cu_seqlens must be [B + 1], got shape [0]"),
    "cu_keep_longer": (
        {"cu_keep": offsets(0, 2, 5, 5)},
        "cu_keep must have cu_seqlens' length 3, got 4",
    ),
    "cu_seqlens_start": (
        {"cu_seqlens": offsets(1, 4, 9)},
        "cu_seqlens must run from 0 to the 9 rows of x, got 1 to 9",
    ),
    "cu_seqlens_end": (
        {"cu_seqlens": offsets(0, 4, 8)},
        "cu_seqlens must run from 0 to the 9 rows of x, got 0 to 8",
    ),
    "cu_seqlens_past_the_end": (
        {"cu_seqlens": offsets(0, 4, 10)},
        "cu_seqlens must run from 0 to the 9 rows of x, got 0 to 10",
    ),
    "cu_seqlens_falls": (
        {"cu_seqlens": offsets(0, 5, 4, 9), "cu_keep": offsets(0, 2, 2, 5)},
        "cu_seqlens must rise by 0 to max_seqlen = 5 an image, got -1 for image 1",
    ),
    "max_seqlen": (
        {"max_seqlen": 4},
        "cu_seqlens must rise by 0 to max_seqlen = 4 an image, got 5 for image 1",
    ),
    "cu_keep_start": (
        {"cu_keep": offsets(1, 2, 5)},
        "cu_keep must run from 0 to total_keep = 5, got 1 to 5",
    ),
    "total_keep": ({"total_keep": 4}, "cu_keep must run from 0 to total_keep = 4, got 0 to 5"),
    "total_keep_negative": (
        {"total_keep": -1},
        "total_keep must be in [0, T] = [0, 9], got -1",
    ),
    "cu_keep_falls": (
        {"cu_keep": offsets(0, -1, 5)},
        "cu_keep must lie in [0, 5], got -1 at place 1",
    ),
    "cu_seqlens_whose_differences_overflow": (
        {"cu_seqlens": offsets(0, 2**63 - 1, 9)},
        "cu_seqlens must lie in [0, 9], got 9223372036854775807 at place 1",
    ),
    "cu_keep_more_than_the_image": (
        {"cu_keep": offsets(0, 5, 5)},
        "cu_keep must rise by 0 to the image's length = 4, got 5 for image 0",
    ),
}


@pytest.mark.parametrize(("changes", "message"), VARLEN.values(), ids=VARLEN.keys())
def test_varlen_offsets(changes, message):
    with refused("prune_varlen", message):
        varlen(**changes)


def test_varlen_empty_cu_keep_without_total_keep():
    with refused("prune_varlen", "cu_keep must be [B + 1], got shape [0]"):
        svdprune.prune_varlen(FLAT, offsets(0, 4, 9), offsets(), max_seqlen=5)


# NaN and Inf.


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("shape", [(3, 6, 9), (3, 9, 6)], ids=str)
def test_not_finite_names_the_image(shape, center, dtype, bad):
    x = gaussian(*shape, dtype=dtype)
    x[1, 2, 3] = bad
    for name in ("leverage_scores", "prune", "prune_adaptive"):
        with refused(name, "x must be finite, got NaN or Inf in image 1 of x"):
            CALLS[name](x, center=center)
        with refused(name, "x must be finite, got NaN or Inf in x"):
            CALLS[name](x[1], center=center)


def test_not_finite_names_the_first_image():
    x = gaussian(4, 6, 5)
    x[1, 0, 0] = x[3, 0, 0] = float("nan")
    with refused("prune", "x must be finite, got NaN or Inf in image 1 of x"):
        svdprune.prune(x, 2)


def test_not_finite_names_the_packed_image():
    x = FLAT.clone()
    x[5, 1] = float("nan")
    with refused("prune_varlen", "x must be finite, got NaN or Inf in image 1 of x"):
        varlen(x=x)


def test_not_finite_past_the_images_rows_does_not_matter():
    padded = torch.cat([X, torch.full((2, 1, 5), float("nan"))], dim=1)
    assert torch.equal(svdprune.prune(padded[:, :6], 3).indices, svdprune.prune(X, 3).indices)


def test_works_again_after_a_refusal():
    expected = svdprune.prune(X, 3)
    with refused("prune", "x must be finite"):
        svdprune.prune(torch.full_like(X, float("nan")), 3)
    assert torch.equal(svdprune.prune(X, 3).indices, expected.indices)


# What is no tensor, or a tensor that no kernel takes.


@every_op
@pytest.mark.parametrize("x", [[[1.0, 2.0]], 1.0, None])
def test_not_a_tensor(name, x):
    got = type(x).__name__
    message = f"svdprune::{name}: x must be a Tensor or an array with __dlpack__, got {got}"
    with pytest.raises(TypeError, match=message):
        CALLS[name](x)


def test_keep_must_be_a_whole_number():
    with pytest.raises((RuntimeError, TypeError), match=r"svdprune::prune.*'keep'"):
        svdprune.prune(X, 1.5)


def test_sparse():
    with pytest.raises(NotImplementedError, match="SparseCPU"):
        svdprune.prune(X[0].to_sparse(), 3)


@pytest.mark.parametrize("name", ["cu_seqlens", "cu_keep"])
def test_a_meta_tensor_among_others(name):
    message = f"{name} must be on the device of x, the CPU, got meta"
    with refused("prune_varlen", message):
        varlen(**{name: offsets(0, 2, 5).to("meta")})


def test_offsets_beside_meta_features():
    with refused("prune_varlen", "cu_seqlens must be on the device of x, meta, got the CPU"):
        varlen(x=FLAT.to("meta"))


@pytest.mark.parametrize("op", ["leverage_scores", "prune", "prune_adaptive"])
def test_meta_tensors_have_their_dimensions_checked(op):
    with pytest.raises(ValueError, match=rf"svdprune::{op}: x must be .* got shape \[5\]"):
        CALLS[op](torch.zeros(5, device="meta"))
