"""Where do a rule's few tokens go? On the tiny VLM's test images: sign, things or background; how long ones?

python -m bench.where_kept --images 300 --keep 8
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from torch import Tensor

import svdprune_ext
from svdprune_ext import tiny_vlm
from svdprune_ext.evaluation import prepare
from svdprune_ext.evaluation.answering import features
from svdprune_ext.methods.ranking import unit_rows
from svdprune_ext.models.families import family_of
from svdprune_ext.tiny_vlm.scenes import SIDE, Scene

PLACES = ("sign", "things", "background")


def main() -> None:
    """Prints a line for each rule."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--keep", type=int, default=8)
    options = parser.parse_args()
    model, processor = tiny_vlm.load()
    exam = prepare(processor, tiny_vlm.TEST, options.images)
    scenes = [tiny_vlm.sample(tiny_vlm.TEST, i).scene for i in range(options.images)]
    x = features(model, exam)
    with torch.inference_mode():
        behind = family_of(model).projector(model.base_model)(x)
    on_sign = torch.tensor([scene.sign is not None for scene in scenes])
    side = round(x.shape[1] ** 0.5)
    signed = [scene for scene in scenes if scene.sign is not None]
    places = torch.stack([places_of(scene, side) for scene in signed])
    print(f"{len(places)} images with a sign; {options.keep} tokens: how many on each place")
    heads = "".join(f"{name:>12}" for name in PLACES)
    print(f"{'':28}{heads}   length over the mean   all characters")
    shown = torch.stack([(places == p).double().mean() for p in range(3)]) * options.keep
    print(f"{'tokens at random':28}" + "".join(f"{v:12.2f}" for v in shown) + f"{1.0:23.2f}")
    for p, name in enumerate(PLACES):
        for what, given in (("", x), (" behind the projector", behind)):
            lengths = given[on_sign].norm(dim=-1)
            ratio = (lengths / lengths.mean(1, keepdim=True))[places == p].mean()
            print(f"mean length of {name}{what}: {ratio:.2f}")
    rules: dict[str, Callable[[], Tensor]] = {
        "top-K leverage": lambda: svdprune_ext.prune(x, options.keep).indices,
        "pivoted": lambda: _pivoted(x, options.keep),
        "pivoted, centred": lambda: _pivoted(x, options.keep, center=True),
        "pivoted, unit rows": lambda: _pivoted(unit_rows(x), options.keep),
        "pivoted, behind projector": lambda: _pivoted(behind, options.keep),
        "divprune": lambda: svdprune_ext.methods.get("divprune").select(x, options.keep).indices,
        "css": lambda: svdprune_ext.methods.get("css").select(x, options.keep).indices,
    }
    lengths = x.norm(dim=-1) / x.norm(dim=-1).mean(1, keepdim=True)
    for rule, kept_by in rules.items():
        kept = kept_by()[on_sign]
        at = places.gather(1, kept)
        counts = [(at == p).sum(1).double().mean() for p in range(3)]
        length = lengths[on_sign].gather(1, kept).mean()
        columns = kept % side
        seen = [
            characters_of(scene, side) <= set(where[place == 0].tolist())
            for scene, where, place in zip(signed, columns, at, strict=True)
        ]
        line = "".join(f"{v:12.2f}" for v in counts) + f"{length:23.2f}"
        print(f"{rule:28}{line}{sum(seen) / len(seen):17.2f}")


def places_of(scene: Scene, side: int) -> Tensor:
    """Index into ``PLACES`` of each patch [side * side]: by its centre, a thing's by its bounding square."""
    centres = (torch.arange(side) + 0.5) * SIDE / side
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    places = torch.full((side, side), 2)
    for thing in scene.things:
        places[torch.maximum((x - thing.x).abs(), (y - thing.y).abs()) <= thing.radius] = 1
    if scene.sign is not None:
        left, top, right, bottom = scene.sign.plate
        places[(x >= left) & (x < right) & (y >= top) & (y < bottom)] = 0
    return places.flatten()


def characters_of(scene: Scene, side: int) -> set[int]:
    """Columns of patches in which the characters of the sign have their middles."""
    assert scene.sign is not None
    return {int((left + right) / 2 * side / SIDE) for left, right in scene.sign.cells}


def _pivoted(x: Tensor, keep: int, center: bool = False) -> Tensor:
    return svdprune_ext.prune(x, keep, center=center, select="pivoted").indices


if __name__ == "__main__":
    main()
