"""Ways to run a pruned model, and for which kinds of models each works: the table of the README.

The tests run every way on one family of each kind (``python_tests/test_models_ways.py``), so what stands here
is what was seen. ``python -m svdprune_ext.models.compatibility README.md`` writes the tables.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from svdprune_ext.models.families import FAMILIES
from svdprune_ext.models.family import Family

WORKS = "yes"
NOT_UNPATCHED = "not unpatched either"


@dataclass(frozen=True)
class Kind:
    """A kind of models that behave alike.

    Attributes:
        title: Heading of the table's column.
        tested: The family that the tests run.
    """

    title: str
    tested: str


KINDS = {
    "causal": Kind("LLaVA and others", "LlavaForConditionalGeneration"),
    "mrope": Kind("M-RoPE: Qwen", "Qwen2_5_VLForConditionalGeneration"),
    "ahead": Kind("images see ahead: PaliGemma, Gemma 3", "Gemma3ForConditionalGeneration"),
}


@dataclass(frozen=True)
class Way:
    """A way to run a model.

    Attributes:
        name: Of the test's function.
        text: What it is.
        causal: WORKS, NOT_UNPATCHED, or words of the error that refuses it; so for each kind.
        mrope: The same.
        ahead: The same.
    """

    name: str
    text: str
    causal: str = WORKS
    mrope: str = WORKS
    ahead: str = WORKS


_HOLDS_PART = "lets images see ahead, which is not supported where a cache holds part of the prompt"
_ONE_TOKEN = "a static cache that holds a pruned prompt takes one token at a time"

WAYS = (
    Way("batch", "batches, padded left or right, with different numbers of images"),
    Way("text_only", "prompts without an image"),
    Way("greedy", "`generate`: greedy"),
    Way("sampling", "`generate`: sampling"),
    Way("beams", "`generate`: beam search"),
    Way("no_cache", "`generate(use_cache=False)`"),
    Way("prompt_lookup", "assisted decoding by prompt lookup"),
    Way("draft_model", "assisted decoding by a draft model"),
    Way("chunked_prefill", "`prefill_chunk_size`", ahead=_HOLDS_PART),
    Way("static_cache", '`cache_implementation="static"`'),
    Way("static_compiled", "the same, each step compiled with `fullgraph=True`"),
    Way("hand_written_loop", "hand-written loops on the cache, with a mask or without"),
    Way("next_turn", "a next turn on the kept cache"),
    Way("repeated_cache", "a kept cache repeated for several next turns"),
    Way(
        "next_turn_static", "a next turn on a kept static cache", _ONE_TOKEN, _ONE_TOKEN, _ONE_TOKEN
    ),
    Way("next_image", "an image in a later turn, on the kept cache", ahead=_HOLDS_PART),
    Way("embeddings", "`inputs_embeds` in place of `input_ids`", mrope=NOT_UNPATCHED),
    Way("compiled_prefill", "`torch.compile(fullgraph=True)` of the prefill", mrope=NOT_UNPATCHED),
    Way("export", "`torch.export`, with dynamic text length", mrope=NOT_UNPATCHED),
    Way("aoti_package", "an AOTInductor package", mrope=NOT_UNPATCHED),
    Way("attentions", "`output_attentions`, `output_hidden_states` (rows of kept tokens)"),
    Way("training", "labels, loss, gradients; gradient checkpointing"),
    Way("quantised", "quantised linear layers"),
    Way("torchao", "8-bit weights, by torchao"),
    Way("bitsandbytes", "4-bit weights, by bitsandbytes"),
    Way("two_devices", "parts of the model on different devices, as `device_map` puts them"),
    Way("device_map", '`from_pretrained(device_map="auto")`, with layers on disk'),
    Way("pipeline", '`pipeline("image-text-to-text")`'),
)


def families_table() -> str:
    """The supported families, as Markdown."""
    lines = [
        "| transformers class | position ids by default | projector runs on | videos |",
        "|---|---|---|---|",
    ]
    lines += [_family_row(family) for family in FAMILIES]
    return "\n".join(lines)


def _family_row(family: Family) -> str:
    runs_on = "kept tokens" if family.row_by_row else "all tokens"
    videos = "yes" if family.video_grid else ""
    return f"| `{family.model_class}` | {family.positions} | {runs_on} | {videos} |"


def ways_table() -> str:
    """The ways to run, as Markdown."""
    lines = [
        f"| | {' | '.join(kind.title for kind in KINDS.values())} |",
        f"|---|{'---|' * len(KINDS)}",
    ]
    for way in WAYS:
        answers = [getattr(way, kind) for kind in KINDS]
        cells = [a if a in (WORKS, NOT_UNPATCHED) else "refused" for a in answers]
        lines.append(f"| {way.text} | {' | '.join(cells)} |")
    return "\n".join(lines)


def rewritten(readme: str) -> str:
    """A README with both tables between their marks.

    Raises:
        ValueError: A mark is missing.
    """
    for name, table in (("families", families_table()), ("ways", ways_table())):
        begin, end = f"<!-- models:{name}:begin -->", f"<!-- models:{name}:end -->"
        if begin not in readme or end not in readme:
            raise ValueError(f"the README must hold {begin} and {end}")
        before, after = readme.split(begin)[0], readme.split(end)[1]
        readme = f"{before}{begin}\n{table}\n{end}{after}"
    return readme


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(rewritten(path.read_text()))
