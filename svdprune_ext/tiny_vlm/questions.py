"""Questions about a scene, with answers that the scene alone decides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from svdprune_ext.tiny_vlm.scenes import COLOURS, SHAPES, SIDE, Scene, Thing
from svdprune_ext.tiny_vlm.splits import Split, is_test_pair

COMPOSITIONAL = (
    "colour",
    "shape",
    "count",
    "count with attribute",
    "existence",
    "where",
    "relation, yes or no",
    "relation, which of two",
    "query by relation",
)
READING = ("read the sign",)
KINDS = (*COMPOSITIONAL, "sign or none", *READING)
NUMBERS = ("zero", "one", "two", "three", "four", "five")

_MARGIN = 10  # pixels by which one thing must be left of (above) another before a question says so
_MIDDLE = 6  # pixels from the middle of the image within which no question asks where a thing is


@dataclass(frozen=True)
class Question:
    """One question.

    Attributes:
        kind: One of ``KINDS``.
        text: What is asked.
        answer: The one right answer.
        mentions: For each thing that ``text`` names: the index of the last word of its name in
            ``text.split()``, and the index of the thing in the scene, or None where there is none.
    """

    kind: str
    text: str
    answer: str
    mentions: tuple[tuple[int, int | None], ...] = ()


def ask_all(scene: Scene, rng: np.random.Generator, split: Split) -> list[Question]:
    """Asks everything that has one answer, with yes and no equally often in each kind.

    Args:
        scene: The scene.
        rng: Source of the choices among alike questions.
        split: Training never hears of the pairs held out, not even that there is none.

    Returns:
        The questions, kind by kind.
    """
    things = scene.things
    return [
        *_attributes(things),
        *_counts(things, rng),
        *_existence(things, rng, split),
        *_where(things),
        *_relations(things, rng),
        *_query_by_relation(things),
        *_sign(scene),
    ]


def _named_once(things: tuple[Thing, ...]) -> list[int]:
    names = Counter(thing.name for thing in things)
    return [index for index, thing in enumerate(things) if names[thing.name] == 1]


def _attributes(things: tuple[Thing, ...]) -> Iterable[Question]:
    colours = Counter(thing.colour for thing in things)
    shapes = Counter(thing.shape for thing in things)
    for index, thing in enumerate(things):
        colour, shape = COLOURS[thing.colour], SHAPES[thing.shape]
        if shapes[thing.shape] == 1:
            yield Question("colour", f"what colour is the {shape} ?", colour, ((4, index),))
        if colours[thing.colour] == 1:
            yield Question("shape", f"what shape is the {colour} thing ?", shape, ((5, index),))


def _counts(things: tuple[Thing, ...], rng: np.random.Generator) -> Iterable[Question]:
    yield Question("count", "how many things are there ?", NUMBERS[len(things)])
    colours = Counter(thing.colour for thing in things)
    shapes = Counter(thing.shape for thing in things)
    # One question for each number that occurs, so that "one" does not crowd out the rest.
    for counts, names, ending in ((colours, COLOURS, " things"), (shapes, SHAPES, "s")):
        by_number: dict[int, list[str]] = {}
        for index, name in enumerate(names):
            by_number.setdefault(counts[index], []).append(name)
        for number, candidates in sorted(by_number.items()):
            name = candidates[int(rng.integers(len(candidates)))]
            plural = "crosses" if name + ending == "crosss" else name + ending
            yield Question(
                "count with attribute", f"how many {plural} are there ?", NUMBERS[number]
            )


def _existence(
    things: tuple[Thing, ...], rng: np.random.Generator, split: Split
) -> Iterable[Question]:
    present = {(thing.colour, thing.shape) for thing in things}
    colours, shapes = {c for c, _ in present}, {s for _, s in present}
    asked = [pair for pair in sorted(present) if rng.random() < 0.7]
    absent = [
        (colour, shape)
        for colour in range(len(COLOURS))
        for shape in range(len(SHAPES))
        if (colour, shape) not in present and (split.held_out or not is_test_pair(colour, shape))
    ]
    # Half of the "no" are hard: both the colour and the shape are there, on different things.
    hard = [(c, s) for c, s in absent if c in colours and s in shapes]
    named_once = {things[index].name: index for index in _named_once(things)}
    for colour, shape in asked:
        name = f"{COLOURS[colour]} {SHAPES[shape]}"
        mentions = ((4, named_once[name]),) if name in named_once else ()
        yield Question("existence", f"is there a {name} ?", "yes", mentions)
        pool = hard if hard and rng.random() < 0.5 else absent
        colour, shape = pool[int(rng.integers(len(pool)))]
        name = f"{COLOURS[colour]} {SHAPES[shape]}"
        yield Question("existence", f"is there a {name} ?", "no", ((4, None),))


def _where(things: tuple[Thing, ...]) -> Iterable[Question]:
    for index in _named_once(things):
        thing = things[index]
        right, down = thing.x - SIDE // 2, thing.y - SIDE // 2
        if min(abs(right), abs(down)) >= _MIDDLE:
            answer = f"{'bottom' if down > 0 else 'top'} {'right' if right > 0 else 'left'}"
            yield Question("where", f"where is the {thing.name} ?", answer, ((4, index),))


def _right_of(a: Thing, b: Thing) -> int:
    return a.x - b.x


def _below(a: Thing, b: Thing) -> int:
    return a.y - b.y


_AXES: tuple[tuple[Callable[[Thing, Thing], int], str, str], ...] = (
    (_right_of, "left of", "right of"),
    (_below, "above", "below"),
)


def _relations(things: tuple[Thing, ...], rng: np.random.Generator) -> Iterable[Question]:
    names = _named_once(things)
    for first in names:
        for second in names:
            for distance, less, more in _AXES:
                by = distance(things[first], things[second])
                if first == second or abs(by) < _MARGIN:
                    continue
                truth, lie = (more, less) if by > 0 else (less, more)
                a, b = things[first].name, things[second].name
                words, answer = (truth, "yes") if rng.random() < 0.5 else (lie, "no")
                text = f"is the {a} {words} the {b} ?"
                mentions = ((3, first), (len(text.split()) - 2, second))
                yield Question("relation, yes or no", text, answer, mentions)
                either = f"{less.split()[0]} or {more}"
                text = f"is the {a} {either} the {b} ?"
                mentions = ((3, first), (len(text.split()) - 2, second))
                yield Question("relation, which of two", text, truth.split()[0], mentions)


def _query_by_relation(things: tuple[Thing, ...]) -> Iterable[Question]:
    for second in _named_once(things):
        for distance, less, more in _AXES:
            for words, sign in ((less, -1), (more, 1)):
                by = [sign * distance(thing, things[second]) for thing in things]
                found = [index for index, d in enumerate(by) if d >= _MARGIN]
                near = [index for index, d in enumerate(by) if 0 < d < _MARGIN]
                if len(found) != 1 or near:
                    continue
                thing, name = things[found[0]], things[second].name
                for what, answer in (
                    ("colour", COLOURS[thing.colour]),
                    ("shape", SHAPES[thing.shape]),
                ):
                    text = f"what {what} is the thing {words} the {name} ?"
                    mention = (len(text.split()) - 2, second)
                    yield Question("query by relation", text, answer, (mention,))


def _sign(scene: Scene) -> Iterable[Question]:
    yield Question("sign or none", "is there a sign ?", "no" if scene.sign is None else "yes")
    if scene.sign is not None:
        yield Question("read the sign", "what does the sign say ?", scene.sign.text)
