"""What holds for every method."""

import re

import pytest
import torch
from samples import gaussian

from svdprune_ext.methods import available, get

NEEDS_ATTENTION = {"cls_attention": "cls", "visionzip": "received", "fastv": "decoder"}
MERGES = {"visionzip"}
BY_PLACE = {"random", "uniform", "visionzip"}  # do not follow a permutation of the tokens
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
B, N, D = 3, 36, 24

every_method = pytest.mark.parametrize("name", available())


def attention_of(x):
    """[B, N]: a softmax, one for each image."""
    return gaussian(*x.shape[:2], seed=9).softmax(-1)


def select(name, x, keep, **options):
    if name in NEEDS_ATTENTION:
        options.setdefault("attention", attention_of(x))
    return get(name).select(x, keep, **options)


def test_the_registry():
    assert len(available()) == len(set(available())) == 13
    for name in available():
        method = get(name)
        assert method.name == name
        assert method.attention == NEEDS_ATTENTION.get(name)
        assert method.needs_cls == (name in ("cls_attention", "visionzip"))
        assert method.merges == (name in MERGES)
        assert "arXiv" in method.paper or name in ("css", "random", "uniform", "norm")
        assert "Source:" in method.rule.__doc__
    with pytest.raises(ValueError, match=r"name must be one of svd, ridge, .*fastv, got 'pca'"):
        get("pca")


@every_method
@pytest.mark.parametrize("keep", [0, 1, 2, 7, 19, N - 1, N])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_indices_ascend_and_differ(name, keep, dtype):
    x = gaussian(B, N, D, dtype=dtype)
    selected = select(name, x, keep)
    indices = selected.indices
    assert indices.shape == (B, keep)
    assert indices.dtype == torch.int64
    assert indices.device == x.device
    assert indices.is_contiguous()
    assert (indices.diff(dim=1) > 0).all()
    assert ((indices >= 0) & (indices < N)).all()
    if selected.scores is not None:
        assert selected.scores.shape == (B, N)
        expected = selected.scores.argsort(dim=1, descending=True, stable=True)[:, :keep]
        assert torch.equal(indices, expected.sort(dim=1).values)
    assert (selected.tokens is not None) == (name in MERGES)
    if selected.tokens is not None:
        assert selected.tokens.shape == (B, keep, D)
        assert selected.tokens.dtype == dtype
        assert selected.tokens.isfinite().all()


@every_method
def test_keep_all_changes_nothing(name):
    x = gaussian(B, N, D)
    selected = select(name, x, N)
    assert torch.equal(selected.indices, torch.arange(N).expand(B, N))
    if selected.tokens is not None:
        assert torch.equal(selected.tokens, x)


@every_method
@pytest.mark.parametrize("tokens", [1, 2, 9, 37])
def test_any_number_of_tokens(name, tokens):
    x = gaussian(2, tokens, 5)
    for keep in range(tokens + 1):
        assert select(name, x, keep).indices.unique(dim=1).shape == (2, keep)


@every_method
@pytest.mark.parametrize("keep", [1, 8, 20])
def test_a_batch_equals_its_images(name, keep):
    x, attention = gaussian(B, N, D, seed=4), gaussian(B, N, seed=9).softmax(-1)
    batch = select(name, x, keep, attention=attention)
    for b in range(B):
        image = select(name, x[b : b + 1], keep, attention=attention[b : b + 1])
        assert torch.equal(image.indices[0], batch.indices[b])
        if batch.tokens is not None:
            torch.testing.assert_close(image.tokens[0], batch.tokens[b])


@pytest.mark.parametrize("name", [name for name in available() if name not in BY_PLACE])
@pytest.mark.parametrize("keep", [1, 8, 20])
def test_the_choice_follows_a_permutation_of_the_tokens(name, keep):
    x = gaussian(B, N, D, seed=5, dtype=torch.float64)
    # "cdpruner" has no first token of its own without a relevance.
    attention = attention_of(x)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(1))
    straight = select(name, x, keep, attention=attention).indices
    permuted = select(name, x[:, order], keep, attention=attention[:, order]).indices
    assert torch.equal(order[permuted].sort(dim=1).values, straight)


@every_method
def test_the_layout_of_the_features_is_all_the_same(name):
    x = gaussian(B, N, D)
    strided = x.mT.contiguous().mT
    expanded = gaussian(1, N, D).expand(B, -1, -1)
    assert torch.equal(select(name, strided, 6).indices, select(name, x, 6).indices)
    assert torch.equal(
        select(name, expanded, 6).indices, select(name, expanded.contiguous(), 6).indices
    )


@every_method
@pytest.mark.parametrize("keep", [1, 5, 12])
def test_zero_rows_and_duplicates(name, keep):
    some_zero = gaussian(2, 12, 8)
    some_zero[:, [0, 4, 11]] = 0
    for x in (
        some_zero,
        torch.zeros(2, 12, 8),
        gaussian(2, 3, 8).repeat(1, 4, 1),
        torch.ones(2, 12, 8),
    ):
        selected = select(name, x, keep)
        assert selected.indices.unique(dim=1).shape == (2, keep)
        for values in (selected.scores, selected.tokens):
            assert values is None or values.isfinite().all()


@pytest.mark.parametrize("name", [name for name in available() if name not in BY_PLACE])
def test_equal_tokens_go_to_the_lower_index(name):
    x, attention = torch.ones(2, 10, 4), torch.full((2, 10), 0.1)
    indices = select(name, x, 3, attention=attention).indices
    assert indices.tolist() == [[0, 1, 2]] * 2


@pytest.mark.parametrize("name", ["css", "divprune", "cdpruner"])
def test_a_copy_is_the_last_to_be_kept(name):
    x = gaussian(1, 6, 16)
    x = torch.cat([x, x], 1)
    assert set((select(name, x, 6).indices % 6).flatten().tolist()) == set(range(6))


@every_method
@pytest.mark.parametrize("scale", [1e-30, 1e25])
def test_the_scale_of_the_features_does_not_matter(name, scale):
    x = gaussian(2, 20, 12)
    assert torch.equal(select(name, x * scale, 5).indices, select(name, x, 5).indices)


@every_method
def test_it_does_the_same_every_time_and_leaves_its_input(name):
    x = gaussian(B, N, D, dtype=torch.float16)
    before, random_state = x.clone(), torch.get_rng_state()
    first, second = select(name, x, 9), select(name, x, 9)
    assert torch.equal(first.indices, second.indices)
    assert torch.equal(x, before)
    assert torch.equal(torch.get_rng_state(), random_state)


@every_method
def test_autocast_does_not_lower_the_precision(name):
    x = gaussian(B, N, D)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        selected = select(name, x, 9)
    plain = select(name, x, 9)
    assert torch.equal(selected.indices, plain.indices)
    if plain.tokens is not None:
        assert torch.equal(selected.tokens, plain.tokens)


@every_method
def test_gradients_flow_through_merged_tokens_only(name):
    x = gaussian(1, 10, 4).requires_grad_()
    selected = select(name, x, 4)
    assert selected.scores is None or not selected.scores.requires_grad
    if name in MERGES:
        selected.tokens.sum().backward()
        # Every token has a part in those kept: whole, or its share of a mean.
        torch.testing.assert_close(x.grad.sum(), torch.tensor(4.0 * 4))


@every_method
def test_it_is_one_graph_for_the_compiler(name):
    torch.compiler.reset()
    x = gaussian(2, 12, 8)
    attention = attention_of(x)
    compiled = torch.compile(
        lambda x, a: get(name).select(x, 4, attention=a).indices, fullgraph=True, backend="eager"
    )
    assert torch.equal(compiled(x, attention), select(name, x, 4, attention=attention).indices)


def test_random_draws_by_its_seed():
    x = torch.zeros(2, 50, 1)
    drawn = [select("random", x, 10, seed=seed).indices for seed in range(200)]
    assert torch.equal(drawn[3], select("random", x, 10, seed=3).indices)
    assert torch.equal(drawn[3][0], drawn[3][1])
    counts = torch.stack(drawn)[:, 0].flatten().bincount(minlength=50)
    assert counts.min() > 0
    assert counts.max() < 80  # 40 on average, with a deviation of 6
    generator = torch.Generator().manual_seed(0)
    first, second = (select("random", x, 10, seed=generator).indices for _ in range(2))
    assert not torch.equal(first, second)
    assert not torch.equal(first[0], first[1])


def refused(message):
    return pytest.raises(ValueError, match=re.escape(message))


@every_method
def test_bad_arguments_are_named(name):
    x = gaussian(2, 6, 5)
    nan = x.clone()
    nan[1, 2, 3] = torch.nan
    with refused(f"{name}: features must be [B, N, D] with N, D >= 1, got shape [6, 5]"):
        select(name, x[0], 3, attention=None)
    with refused(f"{name}: features must be [B, N, D] with N, D >= 1, got shape [2, 0, 5]"):
        select(name, x[:, :0], 0)
    with refused(f"{name}: features must be [B, N, D] with N, D >= 1, got shape [2, 6, 0]"):
        select(name, x[:, :, :0], 0)
    with refused(f"{name}: features must be float64, float32, float16 or bfloat16, got torch.int"):
        select(name, x.long(), 3)
    for keep in (-1, 7, 2.0, True):
        with refused(f"{name}: keep must be an int in [0, N] = [0, 6], got {keep!r}"):
            select(name, x, keep)
    with refused(f"{name}: features must be finite, got NaN or Inf"):
        select(name, nan, 3)
    with refused(f"{name}: attention must be [B, N] = [2, 6], got shape [2, 5]"):
        select(name, x, 3, attention=torch.zeros(2, 5))
    with refused(f"{name}: attention must be float64, float32, float16 or bfloat16, got torch.b"):
        select(name, x, 3, attention=torch.zeros(2, 6, dtype=torch.bool))
    with refused(f"{name}: attention must be finite, got NaN or Inf"):
        select(name, x, 3, attention=nan[:, :, 3])
    with refused(f"{name}: attention must be on cpu as the features, got meta"):
        select(name, x, 3, attention=torch.zeros(2, 6, device="meta"))
    known = ", ".join(get(name).options)
    expected = f"one of {known}" if known else "left out"
    with refused(f"{name}: option must be {expected}, got temperature"):
        select(name, x, 3, temperature=1)


@pytest.mark.parametrize(("name", "kind"), NEEDS_ATTENTION.items())
def test_attention_is_asked_for(name, kind):
    with refused(f"{name}: attention must be a Tensor [B, N] ({kind} attention), got None"):
        get(name).select(gaussian(2, 6, 5), 3)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("ridge", {"variance": 0.0}, "variance must be in (0, 1], got 0.0"),
        ("ridge", {"rank": 6}, "rank must be in [1, 5], got 6"),
        ("random", {"seed": 0.5}, "seed must be an int of 64 bits or a torch.Generator, got 0.5"),
        ("random", {"seed": 2**64}, "seed must be an int of 64 bits or a torch.Generator, got 1"),
        ("uniform", {"grid": (2, 2)}, "grid must be (height, width) of 6 tokens, got (2, 2)"),
        ("dart", {"pivots": 0}, "pivots must be an int >= 1, got 0"),
        ("visionzip", {"contextual": -1}, "contextual must be None or an int >= 0, got -1"),
        ("visionzip", {"merge": "sum"}, "merge must be one of average, add, got 'sum'"),
    ],
)
def test_bad_options_are_named(name, options, message):
    with refused(f"{name}: {message}"):
        select(name, gaussian(2, 6, 5), 3, **options)
