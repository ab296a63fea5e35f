"""Images and questions of the tiny VLM: the same bytes every time, nothing held out leaks, answers hold."""

from __future__ import annotations

import hashlib
from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from svdprune_ext import tiny_vlm
from svdprune_ext.tiny_vlm import drawing, glyphs, words
from svdprune_ext.tiny_vlm.scenes import COLOURS, SHAPES, SIDE, Scene, Sign, Thing
from svdprune_ext.tiny_vlm.splits import is_test_number, is_test_pair

NUMBERS = ["zero", "one", "two", "three", "four", "five"]


@pytest.fixture(scope="module")
def samples() -> dict[str, list[tiny_vlm.Sample]]:
    return {
        name: [tiny_vlm.sample(split, index) for index in range(150)]
        for name, split in tiny_vlm.SPLITS.items()
    }


# Of the images and the questions of the first 20 samples. A change here changes every published figure.
DIGESTS = {
    "train": "6dabaa5b0273330f",
    "validation": "d3fc3160e7e129a9",
    "test": "3a486e5147539108",
}


@pytest.mark.parametrize("name", DIGESTS)
def test_the_same_bytes_for_the_same_seed(name, samples):
    digest = hashlib.sha256()
    for index in range(20):
        again = tiny_vlm.sample(tiny_vlm.SPLITS[name], index)
        assert np.array_equal(again.image, samples[name][index].image)
        assert again.questions == samples[name][index].questions
        digest.update(again.image.tobytes())
        digest.update(repr([(q.kind, q.text, q.answer) for q in again.questions]).encode())
    assert digest.hexdigest()[:16] == DIGESTS[name]


def test_samples_differ_between_numbers_and_splits(samples):
    images = [s.image.tobytes() for split in samples.values() for s in split]
    assert len(set(images)) == len(images)
    assert samples["train"][0].image.shape == (SIDE, SIDE, 3)
    assert samples["train"][0].image.dtype == np.uint8


@pytest.mark.parametrize("name", ["train", "validation"])
def test_nothing_held_out_occurs_in_training(name, samples):
    for made in samples[name]:
        assert not any(is_test_pair(thing.colour, thing.shape) for thing in made.scene.things)
        for question in made.questions:
            assert not any(pair in question.text for pair in held_out_names())
        if (sign := made.scene.sign) is not None:
            assert sign.face in glyphs.TRAIN_FACES
            assert sign.text not in words.TEST_WORDS
            assert not (sign.text.isdigit() and is_test_number(sign.text))


def test_the_test_split_holds_what_was_held_out(samples):
    things = [thing for made in samples["test"] for thing in made.scene.things]
    share = np.mean([is_test_pair(thing.colour, thing.shape) for thing in things])
    assert 0.4 < share < 0.6
    signs = [made.scene.sign for made in samples["test"] if made.scene.sign is not None]
    assert {sign.face for sign in signs} == set(glyphs.TEST_FACES)
    for sign in signs:
        assert is_test_number(sign.text) if sign.text.isdigit() else sign.text in words.TEST_WORDS


def test_words_and_faces_are_disjoint_and_pairs_cover_every_colour_and_shape():
    assert not set(words.TRAIN_WORDS) & set(words.TEST_WORDS)
    assert not set(glyphs.TRAIN_FACES) & set(glyphs.TEST_FACES)
    assert all(2 <= len(word) <= 4 for word in words.TRAIN_WORDS + words.TEST_WORDS)
    held = [(c, s) for c in range(len(COLOURS)) for s in range(len(SHAPES)) if is_test_pair(c, s)]
    assert len({c for c, _ in held}) == len({s for _, s in held}) == len(held) == 6


def held_out_names() -> list[str]:
    return [
        f"{colour} {shape}"
        for c, colour in enumerate(COLOURS)
        for s, shape in enumerate(SHAPES)
        if is_test_pair(c, s)
    ]


def test_things_lie_inside_and_apart(samples):
    for made in samples["test"]:
        for thing in made.scene.things:
            assert thing.radius < min(thing.x, thing.y)
            assert max(thing.x, thing.y) + thing.radius < SIDE
        for a, b in combinations(made.scene.things, 2):
            assert max(abs(a.x - b.x), abs(a.y - b.y)) >= a.radius + b.radius


@pytest.mark.parametrize("shape", [0, 1, 2, 3, 4])
def test_a_thing_is_drawn_in_its_colour_where_the_scene_says(shape):
    scene = Scene((Thing(2, shape, 30, 60, 12), Thing(0, shape, 70, 20, 10)), None)
    image = drawing.draw(scene, np.random.default_rng(0)).astype(int)
    assert image[60, 30].argmax() == 2
    assert image[20, 70].argmax() == 0


def test_a_ring_is_empty_in_the_middle():
    scene = Scene((Thing(0, 5, 48, 48, 13),), None)
    image = drawing.draw(scene, np.random.default_rng(3)).astype(int)
    redness = image[48, :, 0] - image[48, :, 1]
    assert redness[48 - 10] > 100
    assert abs(redness[48]) < 60


def test_a_sign_has_the_ink_of_its_glyphs():
    sign = Sign("CAT", "Sans", 2, 3, 20, 40)
    image = drawing.draw(Scene((), sign), np.random.default_rng(1)).astype(int).sum(axis=2)
    for character, (left, _), width in zip("CAT", sign.cells, sign.widths, strict=True):
        glyph = glyphs.glyphs("Sans", 2)[glyphs.CHARACTERS.index(character)]
        window = image[40 : 40 + sign.height, left + 1 : left + 1 + width]
        contrast = window[glyph > 200].mean() - window[glyph < 50].mean()
        assert abs(contrast) > 200


def solve(scene: Scene, text: str) -> str:
    """Answers a question from its words alone."""
    things, asked = scene.things, text.removesuffix(" ?").split()

    def named(colour, shape):
        return [t for t in things if (COLOURS[t.colour], SHAPES[t.shape]) == (colour, shape)]

    def only(found):
        assert len(found) == 1
        return found[0]

    sides = {
        "left": lambda a, b: a.x < b.x,
        "right": lambda a, b: a.x > b.x,
        "above": lambda a, b: a.y < b.y,
        "below": lambda a, b: a.y > b.y,
    }
    match asked:
        case ["is", "there", "a", "sign"]:
            return "yes" if scene.sign else "no"
        case ["what", "does", "the", "sign", "say"]:
            return scene.sign.text
        case ["how", "many", "things", "are", "there"]:
            return NUMBERS[len(things)]
        case ["how", "many", colour, "things", "are", "there"]:
            return NUMBERS[sum(COLOURS[t.colour] == colour for t in things)]
        case ["how", "many", plural, "are", "there"]:
            return NUMBERS[
                sum(plural in (f"{SHAPES[t.shape]}s", f"{SHAPES[t.shape]}es") for t in things)
            ]
        case ["what", "colour", "is", "the", shape]:
            return COLOURS[only([t for t in things if SHAPES[t.shape] == shape]).colour]
        case ["what", "shape", "is", "the", colour, "thing"]:
            return SHAPES[only([t for t in things if COLOURS[t.colour] == colour]).shape]
        case ["is", "there", "a", colour, shape]:
            return "yes" if named(colour, shape) else "no"
        case ["where", "is", "the", colour, shape]:
            thing = only(named(colour, shape))
            return f"{'top' if thing.y < 48 else 'bottom'} {'left' if thing.x < 48 else 'right'}"
        case ["is", "the", c1, s1, one, "or", other, *_, "the", c2, s2]:
            a, b = only(named(c1, s1)), only(named(c2, s2))
            return only([side for side in (one, other) if sides[side](a, b)])
        case ["is", "the", c1, s1, side, *_, "the", c2, s2]:
            return "yes" if sides[side](only(named(c1, s1)), only(named(c2, s2))) else "no"
        case ["what", what, "is", "the", "thing", side, *_, "the", colour, shape]:
            other = only(named(colour, shape))
            thing = only([t for t in things if sides[side](t, other)])
            return COLOURS[thing.colour] if what == "colour" else SHAPES[thing.shape]
    raise AssertionError(text)


@pytest.mark.parametrize("name", tiny_vlm.SPLITS)
def test_every_answer_follows_from_the_scene(name, samples):
    kinds = Counter()
    for made in samples[name]:
        for question in made.questions:
            kinds[question.kind] += 1
            assert question.answer == solve(made.scene, question.text), question
            for word, index in question.mentions:
                named = question.text.split()[word]
                if index is None:
                    assert (question.answer, named) in [("no", shape) for shape in SHAPES]
                else:
                    assert named in (SHAPES[made.scene.things[index].shape], "thing")
    assert set(kinds) == set(tiny_vlm.KINDS)


def test_neither_yes_nor_a_side_is_the_better_guess(samples):
    answers = Counter(
        (question.kind, question.answer) for made in samples["test"] for question in made.questions
    )
    assert answers["existence", "yes"] == answers["existence", "no"]
    yes, no = (answers["relation, yes or no", answer] for answer in ("yes", "no"))
    assert 0.9 < yes / no < 1.1
    for one, other in (("left", "right"), ("above", "below")):
        pair = [answers["relation, which of two", answer] for answer in (one, other)]
        assert pair[0] == pair[1]
