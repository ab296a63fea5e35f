"""Budgets of apply(): how many tokens of which image are kept, against a float64 SVD."""

import re

import pytest
import torch
from by_hand import RANK, recorded, scored_features
from tiny_configs import TINY
from tiny_vlms import BOS, END, START, VIDEO, batch

import svdprune_ext
from svdprune_ext.models.selection import choose
from svdprune_ext.models.settings import Settings
from svdprune_ext.reference import oracle_energy, oracle_leverage, oracle_topk


def settings(**options):
    plain = {
        "keep": 32,
        "coverage": None,
        "per": "image",
        "scope": "image",
        "features": "encoder",
        "variance": 0.9,
        "rank": None,
        "center": False,
        "solver": "auto",
        "positions": "compact",
    }
    return Settings(**{**plain, **options})


def features(*sizes, seed=0):
    """Rows [T, 24] whose images have different ranks."""
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for i, n in enumerate(sizes):
        values = torch.logspace(0, -0.3 * (i + 1), 24)
        parts.append(torch.randn(n, 24, generator=generator) * values)
    return torch.cat(parts)


def counts_of(choice, sizes):
    return [int(kept.sum()) for kept in choice.kept.split(list(sizes))]


def test_a_number_of_tokens_for_each_image():
    x = features(30, 12, 20)
    choice = choose(x, [[30], [12], [20]], None, settings(keep=15))
    assert counts_of(choice, (30, 12, 20)) == [15, 12, 15]
    assert choice.total == 42
    expected = oracle_topk(oracle_leverage(x[:30]).scores, 15)
    assert torch.equal(choice.kept[:30].nonzero().squeeze(1), expected)


@pytest.mark.parametrize(
    ("keep", "expected"),
    [(0.1, [3, 2, 2]), (0.5, [15, 6, 10]), (1.0, [30, 12, 20]), (1e-6, [1] * 3)],
)
def test_a_share_is_rounded_up(keep, expected):
    choice = choose(features(30, 12, 20), [[30], [12], [20]], None, settings(keep=keep))
    assert counts_of(choice, (30, 12, 20)) == expected


def test_a_share_that_is_a_whole_number_stays_it():
    choice = choose(features(100), [[100]], None, settings(keep=0.07))  # 0.07 * 100 > 7
    assert counts_of(choice, (100,)) == [7]


@pytest.mark.parametrize("cap", [8, 1.0])
def test_coverage_keeps_what_prune_adaptive_keeps(cap):
    x = features(30, 12, 20)
    choice = choose(x, [[30], [12], [20]], None, settings(keep=cap, coverage=0.6))
    assert choice.total is None
    for kept, image in zip(choice.kept.split([30, 12, 20]), x.split([30, 12, 20]), strict=True):
        most = len(image) if cap == 1.0 else cap
        adaptive = svdprune_ext.prune_adaptive(image, most, coverage=0.6)
        assert kept.nonzero().squeeze(1).tolist() == adaptive.indices[: adaptive.count].tolist()


def test_a_prompts_budget_is_shared_by_rank():
    x, sizes = features(30, 12, 20, 16), [30, 12, 20, 16]
    choice = choose(x, [[n] for n in sizes], [3, 1], settings(keep=20, per="prompt"))
    counts = counts_of(choice, sizes)
    ranks = [oracle_leverage(image).rank for image in x.split(sizes)]
    assert choice.rank.tolist() == ranks
    assert sum(counts[:3]) == 20
    assert counts[3] == 16  # another prompt, with fewer tokens than its budget
    for count, rank in zip(counts[:3], ranks[:3], strict=True):
        assert abs(count - 20 * rank / sum(ranks[:3])) < 1


def test_a_shared_budget_beyond_an_images_tokens_goes_to_the_others():
    x, sizes = features(30, 2, 20), [30, 2, 20]
    choice = choose(x, [[n] for n in sizes], None, settings(keep=40, per="prompt"))
    counts = counts_of(choice, sizes)
    assert counts[1] == 2
    assert sum(counts) == 40


def test_a_shared_budget_of_images_alike_and_of_one_without_rank():
    x = features(10)
    choice = choose(torch.cat([x, x]), [[10], [10]], None, settings(keep=5, per="prompt"))
    assert counts_of(choice, (10, 10)) == [3, 2]
    zeros = torch.cat([x, torch.zeros(10, 24)])
    choice = choose(zeros, [[10], [10]], None, settings(keep=13, per="prompt"))
    assert counts_of(choice, (10, 10)) == [10, 3]


def test_a_rank_beyond_one_image_is_the_others_still():
    x = features(30, 4)
    choice = choose(x, [[30], [4]], None, settings(keep=9, per="prompt", rank=8))
    assert choice.rank.tolist() == [8, 4]
    alone = svdprune_ext.leverage_scores(x[:30], rank=8).scores
    torch.testing.assert_close(choice.scores[:30], alone)


def test_coverage_that_is_reached_exactly_is_enough():
    by_tile = settings(keep=1.0, per="tile", coverage=0.5)
    choice = choose(torch.eye(4), [[2, 2]], None, by_tile)
    assert choice.scores.tolist() == [1, 1, 1, 1]
    assert choice.kept.tolist() == [True, False, True, False]


def test_scores_of_tiles_or_of_all_together():
    x = features(10, 14, 12)
    by_tile = choose(x, [[10, 14], [12]], None, settings(keep=8, scope="tile"))
    together = choose(x, [[10, 14], [12]], None, settings(keep=8))
    prompt = choose(x, [[10, 14], [12]], None, settings(keep=8, scope="prompt"))
    torch.testing.assert_close(
        by_tile.scores[:10].double(), oracle_leverage(x[:10]).scores, atol=2e-4, rtol=0
    )
    torch.testing.assert_close(
        together.scores[:24].double(), oracle_leverage(x[:24]).scores, atol=2e-4, rtol=0
    )
    torch.testing.assert_close(prompt.scores.double(), oracle_leverage(x).scores, atol=2e-4, rtol=0)
    assert [len(choice.rank) for choice in (by_tile, together, prompt)] == [3, 2, 1]
    assert [sum(counts_of(c, (24, 12))) for c in (by_tile, together, prompt)] == [16] * 3


def test_a_tile_with_a_budget_of_its_own():
    choice = choose(features(10, 14, 12), [[10, 14], [12]], None, settings(keep=5, per="tile"))
    assert counts_of(choice, (10, 14, 12)) == [5, 5, 5]


@pytest.mark.parametrize("per", ["tile", "image", "prompt"])
def test_pivoted_chooses_within_each_group(per):
    x, tiles = features(10, 10, 12, 20), [[10, 10], [12], [20]]
    choice = choose(x, tiles, [2, 1], settings(keep=0.4, per=per, scope=per, select="pivoted"))
    sizes = {"tile": [10, 10, 12, 20], "image": [20, 12, 20], "prompt": [32, 20]}[per]
    groups = list(zip(x.split(sizes), choice.kept.split(sizes), strict=True))
    for image, kept in groups:
        expected = svdprune_ext.prune(image, -(-2 * len(image) // 5), select="pivoted").indices
        assert kept.nonzero().squeeze(1).tolist() == expected.tolist()
    assert choice.total == int(choice.kept.sum())
    assert len(choice.rank) == len(sizes)
    held = [scores.sum().item() for scores in choice.scores.split(sizes)]
    assert all(0.5 < share <= 1 + 1e-6 for share in held)


@pytest.mark.parametrize("cap", [8, 1.0])
def test_pivoted_coverage_keeps_what_prune_adaptive_keeps(cap):
    x, sizes = features(30, 12, 0, 20), [30, 12, 0, 20]
    s = settings(keep=cap, coverage=0.6, center=True, select="pivoted")
    choice = choose(x, [[n] for n in sizes], None, s)
    assert choice.total is None
    for kept, image in zip(choice.kept.split(sizes), x.split(sizes), strict=True):
        most = len(image) if cap == 1.0 else min(cap, len(image))
        adaptive = svdprune_ext.prune_adaptive(
            image, most, coverage=0.6, center=True, select="pivoted"
        )
        assert kept.nonzero().squeeze(1).tolist() == adaptive.indices[: adaptive.count].tolist()


@pytest.mark.parametrize("options", [{}, {"select": "pivoted"}, {"method": "uniform"}], ids=str)
def test_energy_of_each_image(options):
    x, sizes = features(30, 12, 20), [30, 12, 20]
    choice = choose(x, [[n] for n in sizes], None, settings(keep=6, energy=True, **options))
    images = zip(x.split(sizes), choice.kept.split(sizes), strict=True)
    expected = [oracle_energy(image, kept.nonzero().squeeze(1)) for image, kept in images]
    assert choice.energy.tolist() == pytest.approx(expected, abs=1e-9)
    assert choose(x, [[n] for n in sizes], None, settings(keep=6, **options)).energy is None
    of_prompts = settings(keep=6, per="prompt", scope="prompt", energy=True, **options)
    assert len(choose(x, [[n] for n in sizes], None, of_prompts).energy) == 3


def test_a_tile_without_tokens_gets_none():
    x, of_tiles = features(9, 7), {"per": "tile", "scope": "tile"}
    for options in ({}, {"method": "norm"}):
        choice = choose(x, [[9, 0], [0, 7]], None, settings(keep=3, **of_tiles, **options))
        assert counts_of(choice, (9, 7)) == [3, 3]
        assert choice.total == 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"select": "best"}, "select must be one of topk, pivoted, got 'best'"),
        ({"select": "pivoted", "rank": 3}, "rank must be left out for select pivoted"),
        ({"select": "pivoted", "variance": 0.8}, "variance must be left out for select pivoted"),
        ({"select": "pivoted", "solver": "eigh"}, "solver must be left out for select pivoted"),
        ({"select": "pivoted", "scope": "tile"}, "scope must be per, 'image', for select pivoted"),
        ({"select": "pivoted", "method": "norm"}, "select must be left out for method norm"),
        ({"energy": 1}, "energy must be a bool, got 1"),
        ({"center": "no"}, "center must be a bool, got 'no'"),
        ({"variance": "x"}, "variance must be in (0, 1], got 'x'"),
        ({"coverage": True}, "coverage must be None or in (0, 1], got True"),
    ],
    ids=str,
)
def test_arguments_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=re.escape(f"apply: {message}")):
        settings(**options)


def test_centred_and_equal_scores():
    x = features(20) + 3
    choice = choose(x, [[20]], None, settings(keep=6, center=True))
    expected = oracle_leverage(x, center=True).scores
    torch.testing.assert_close(choice.scores.double(), expected, atol=2e-4, rtol=0)
    alike = choose(torch.ones(9, 4), [[9]], None, settings(keep=3))
    assert alike.kept.nonzero().squeeze(1).tolist() == [0, 1, 2]


def test_a_prompts_budget_through_generate_and_forward():
    model = TINY["Qwen2VLForConditionalGeneration"].build()
    inputs = batch(model, (1, "image", 2, "image", 4), (4, "image", 3))
    ranks = [oracle_leverage(x).rank for x, _ in scored_features(model, inputs)]
    with svdprune_ext.apply(model, keep=6, per="prompt") as handle:
        model.generate(**inputs, max_new_tokens=2, do_sample=False)
        kept = handle.last.num_kept
        with torch.no_grad():
            model(**inputs)
        assert handle.last.num_kept == kept
    assert "generate" not in model.__dict__
    assert kept[0] + kept[1] == 6
    assert kept[2] == 6
    assert abs(kept[0] - 6 * ranks[0] / (ranks[0] + ranks[1])) < 1


def test_a_prompts_budget_where_embeddings_are_handed_over():
    model = TINY["LlavaForConditionalGeneration"].build()
    inputs = batch(model, (1, "image", 2, "image", 4), (4, "image", 3))
    with svdprune_ext.apply(model, keep=6, per="prompt") as handle, torch.no_grad():
        model(**inputs)
        kept = handle.last.num_kept
        assert (kept[0] + kept[1], kept[2]) == (6, 6)
        inputs["inputs_embeds"] = model.get_input_embeddings()(inputs.pop("input_ids"))
        model(**inputs)
        assert handle.last.num_kept == kept
        model.generate(**inputs, max_new_tokens=2)
        assert handle.last.num_kept == kept


def test_a_scope_of_prompts_is_that_of_those_with_images():
    model = TINY["LlavaForConditionalGeneration"].build()
    inputs = batch(model, (1, "image", 2, "image", 4), (5,), (4, "image", 3))
    with svdprune_ext.apply(model, keep=6, scope="prompt") as handle, torch.no_grad():
        model(**inputs)
        assert len(handle.last.rank) == 2
    assert handle.last.num_kept == (6, 6, 6)


def test_a_prompts_budget_needs_the_placeholders_of_all_its_images():
    model = TINY["LlavaForConditionalGeneration"].build()
    inputs = batch(model, (1, "image", 2, "image", 4), (4, "image", 3))
    first = {name: inputs[name][:1] for name in ("input_ids", "attention_mask")}
    with (
        svdprune_ext.apply(model, keep=6, per="prompt"),
        pytest.raises(ValueError, match="must be those of the images encoded with them"),
    ):
        model(**{**inputs, **first})


def test_newlines_go_with_the_first_dropped_token():
    model = TINY["LlavaNextForConditionalGeneration"].build()
    inputs = batch(model, (1, "image", 2, "image", 4))
    features_of = scored_features(model, inputs)
    with svdprune_ext.apply(model, keep=len(features_of[0][0])) as handle, torch.no_grad():
        model(**inputs)
    last = handle.last
    assert last.num_kept[0] == last.num_tokens[0]  # all of its tokens, and so its newlines
    assert last.num_kept[1] == len(features_of[0][0])
    assert set(last.indices[1].tolist()) <= set(features_of[1][1].tolist())


def test_the_tiles_of_llava_next_have_budgets_of_their_own():
    model = TINY["LlavaNextForConditionalGeneration"].build()
    inputs = batch(model, ("image", 2))  # base view and two tiles, of which 2 x 8 tokens remain
    handle = svdprune_ext.apply(model, keep=3, per="tile", scope="tile", rank=RANK)
    with handle, torch.no_grad():
        model(**inputs)
    assert handle.last.num_kept == (9,)
    ((x, places),) = scored_features(model, inputs)
    columns = (places - 16) % 9
    tiles = [places < 16, (places >= 16) & (columns < 4), (places >= 16) & (columns >= 4)]
    expected = [places[t][oracle_topk(oracle_leverage(x[t], rank=RANK).scores, 3)] for t in tiles]
    assert handle.last.indices[0].tolist() == torch.cat(expected).sort().values.tolist()


def onevision_video():
    pixels = torch.randn(1, 3, 3, 28, 28, generator=torch.Generator().manual_seed(1))
    return {"pixel_values_videos": pixels}, 3 * 4 + 1


def qwen_video():
    grid = torch.tensor([[3, 4, 4]])
    pixels = torch.randn(48, 3 * 2 * 7 * 7, generator=torch.Generator().manual_seed(1))
    return {"pixel_values_videos": pixels, "video_grid_thw": grid}, 12


@pytest.mark.parametrize("name", ["LlavaOnevision", "Qwen2VL", "Qwen2_5_VL", "Qwen3VL"])
def test_a_video_keeps_so_many_tokens_a_frame(name):
    model = TINY[f"{name}ForConditionalGeneration"].build()
    make = onevision_video if name == "LlavaOnevision" else qwen_video
    pixels, placeholders = make()
    blocks = [[VIDEO] * placeholders]
    if name == "Qwen3VL":  # frames stand apart, with their times as text between them
        blocks = [[VIDEO] * 4, [9], [VIDEO] * 4, [9], [VIDEO] * 4]
    ids = torch.tensor([[BOS, 5, START, *(i for block in blocks for i in block), END, 6, 7]])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **pixels}
    if name != "LlavaOnevision":
        inputs["mm_token_type_ids"] = 2 * (ids == VIDEO).int()
    calls = []
    with svdprune_ext.apply(model, keep=2, per="tile") as handle:
        with recorded(model.get_decoder(), calls), torch.no_grad():
            model(**inputs)
        generated = model.generate(**inputs, max_new_tokens=3, do_sample=False)
        plain = model.generate(**inputs, max_new_tokens=3, do_sample=False, use_cache=False)
    assert handle.last.num_kept == (6,)
    frames = handle.last.kept[0][:12].view(3, 4).sum(1)
    assert frames.tolist() == [2, 2, 2]
    # The newline of OneVision's videos is gone; transformers 5.17 adds it later, and it stays.
    dropped = handle.last.num_tokens[0] - 6
    assert dropped == 6 + (handle.last.num_tokens[0] == 13)
    assert calls[0]["inputs_embeds"].shape[1] == ids.shape[1] - dropped
    assert not calls[0]["inputs_embeds"].isnan().any()
    assert torch.equal(generated, plain)
