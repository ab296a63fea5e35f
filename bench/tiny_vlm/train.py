"""Trains the tiny VLM from nothing: ``python -m bench.tiny_vlm.train --minutes 30 --out folder``.

The way: ``build`` (sizes, vocabulary) -> ``tower`` (stage A, from ``start``) -> ``language`` (stage B, on
``packing``) -> a checkpoint folder in float16 -> its accuracy on the test split and its ``card``. With
``--from folder`` stage B goes on with the model there; another ``--seed`` gives it other images.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
import transformers

from bench.timing import describe_machine
from bench.tiny_vlm import card
from bench.tiny_vlm.build import build_model, build_processor
from bench.tiny_vlm.language import train_language
from bench.tiny_vlm.tower import train_tower
from svdprune_ext.tiny_vlm.loading import load

_TOWER_SHARE = 0.35  # of the CPU time; the rest is the language model's


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    first = options.seed * 10_000_000  # so that another seed sees other images
    tower_batch, language_batch = (16, 8) if not options.smoke else (2, 2)
    left = options.minutes
    if options.start is None:
        model, processor = build_model(), build_processor()
        tower_minutes = _TOWER_SHARE * options.minutes
        first = train_tower(model.model.vision_tower, tower_minutes, tower_batch, first)
        left -= tower_minutes
    else:
        model, processor = load(options.start)
    train_language(model, processor.tokenizer, left, language_batch, first, options.seed)
    save(model, processor, options.out)
    images = 2 if options.smoke else options.images
    _facts_of(options.out).write_text(json.dumps(facts(options), indent=2) + "\n")
    print(card.write(options.out, images).table())  # of the file, in float16


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0, help="CPU time on one thread")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--from", dest="start", type=Path, help="checkpoint to go on with")
    parser.add_argument("--images", type=int, default=500, help="test images at the end")
    parser.add_argument("--smoke", action="store_true", help="a few steps, to see that all runs")
    options = parser.parse_args(arguments)
    if options.smoke:
        options.minutes = 0.05
    if options.minutes <= 0 or options.seed < 0 or options.images < 1:
        parser.error("--minutes and --images must be positive, --seed must not be negative")
    return options


def save(model: Any, processor: Any, folder: Path) -> None:
    """Writes a checkpoint in float16; ``model`` is float16 afterwards."""
    model.half().save_pretrained(folder)
    processor.save_pretrained(folder)


def _facts_of(folder: Path) -> Path:
    return folder / "training.json"


def facts(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "cpu_minutes": options.minutes,
        "from": None if options.start is None else json.loads(_facts_of(options.start).read_text()),
        "seed": options.seed,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "machine": describe_machine()["cpu"],
    }


if __name__ == "__main__":
    main()
