"""A model answers an exam under ``svdprune_ext.apply``.

Note [each image is seen once]
Some eleven questions are asked about an image, and which of its tokens are kept does not depend on them.
So the patched model's own ``get_image_features`` runs once for each image; the patched model then reads the
prompts' common beginning with it once; and ``generate`` goes on from that cache with each question, as in a
next turn. The answers are those of processor, ``apply`` and ``generate`` on whole prompts; a test holds that.
A method that chooses within the decoder may look at the question: it is given whole prompts.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import svdprune_ext
from svdprune_ext.evaluation.cells import Cell
from svdprune_ext.evaluation.exam import Exam
from svdprune_ext.evaluation.prefix import read_prefix, rows_of
from svdprune_ext.models.cache import cache_argument
from svdprune_ext.models.families import family_of
from svdprune_ext.models.vision import Selection
from svdprune_ext.tiny_vlm.evaluation import LONGEST_ANSWER

_IMAGES = 32  # a call of the vision tower


@dataclass(frozen=True)
class Encoded:
    """The images of an exam, as ``generate`` is to see them.

    Attributes:
        rows: Behind the projector [images, N, H]; NaN in the rows of dropped tokens.
        kept: Whether each token is kept, bool [images, N]; None where the vision side keeps all.
        rank: Mean number of leading directions; None for a method without.
    """

    rows: Tensor
    kept: Tensor | None
    rank: float | None


@dataclass(frozen=True)
class Answered:
    """What became of an exam.

    Attributes:
        given: The model's answers, in the order of ``Exam.asked``.
        kept: As of ``Encoded``.
        rank: As of ``Encoded``.
        average: Vision tokens that a decoder layer saw, on average; None but for methods within the decoder.
    """

    given: tuple[str, ...]
    kept: Tensor | None
    rank: float | None
    average: float | None = None


@torch.inference_mode()
def answer(model: Any, processor: Any, exam: Exam, cell: Cell) -> Answered:
    """Asks everything once, greedily.

    Args:
        model: A ``LlavaForConditionalGeneration`` that is not patched.
        processor: Its ``LlavaProcessor``.
        exam: What to ask.
        cell: What is done to the model first; it is as before afterwards.

    Returns:
        The answers, and which tokens were kept.

    Raises:
        ValueError: ``apply`` refuses the cell's arguments, or ``scored_layer`` is given for a method that
            merges.
    """
    scored = None if cell.scored_layer is None else _kept_by_layer(model, exam, cell)
    with _applied(model, cell) as handle:
        encoded = _encode(model, exam, handle) if scored is None else scored
        with _replaying(model.base_model, encoded.rows):
            given = _generate(model, processor, exam, _looks_at_questions(cell))
        within = None if handle is None or handle.last is None else handle.last.decoder
    # Of the last prompts: those that have vision tokens all keep as many.
    average = None if within is None else max(within.average)
    return Answered(tuple(given), encoded.kept, encoded.rank, average)


def features(model: Any, exam: Exam) -> Tensor:
    """What the projector takes of each image, unpruned: [images, N, D]."""
    caught: list[Tensor] = []
    projector = family_of(model).projector(model.base_model)
    hook = projector.register_forward_pre_hook(lambda _, args: caught.append(args[0].cpu()))
    try:
        with torch.inference_mode():
            _rows(model, exam, None)
    finally:
        hook.remove()
    return torch.cat(caught)


def _applied(model: Any, cell: Cell) -> Any:
    """The context in which the model is as the cell says; gives the handle, or None where nothing is done."""
    if cell.keep is None:
        return nullcontext()
    arguments = dict(cell.arguments)
    seed = arguments.get("options", {}).get("seed")
    if isinstance(seed, int):
        # An int would draw the same tokens of every image.
        generator = torch.Generator().manual_seed(seed)
        arguments["options"] = {**arguments["options"], "seed": generator}
    budget: dict[str, Any] = {} if "tokens" in arguments else {"keep": cell.keep}
    return svdprune_ext.apply(model, **budget, **arguments)


def _encode(model: Any, exam: Exam, handle: Any, layer: int | None = None) -> Encoded:
    rows: list[Tensor] = []
    noted: list[Selection] = []
    for images in _calls(model, exam, layer):
        rows += images
        if handle is not None and handle.last is not None:
            noted.append(handle.last)
    if not noted:
        return Encoded(torch.stack(rows), None, None)
    rank = torch.cat([last.rank for last in noted]).float().mean().item()
    kept = torch.stack([kept for last in noted for kept in last.kept])
    return Encoded(torch.stack(rows), kept.cpu(), rank or None)


def _rows(model: Any, exam: Exam, layer: int | None) -> Tensor:
    """What ``get_image_features`` returns of every image [images, N, H], as it is patched at the time."""
    return torch.stack([row for images in _calls(model, exam, layer) for row in images])


def _calls(model: Any, exam: Exam, layer: int | None) -> Iterator[list[Tensor]]:
    """The same, some images a call."""
    options: dict[str, Any] = {} if layer is None else {"vision_feature_layer": layer}
    for pixels in exam.pixels.split(_IMAGES):
        given = pixels.to(model.device, model.dtype)
        output = model.base_model.get_image_features(given, return_dict=True, **options)
        yield list(output.pooler_output)


def _kept_by_layer(model: Any, exam: Exam, cell: Cell) -> Encoded:
    """The model's own rows, those marked that ``apply`` drops when it sees the features of another layer."""
    name = cell.arguments.get("method", "svd")
    if svdprune_ext.methods.get(name).merges:
        raise ValueError(f"answer: scored_layer must be None for {name}, which merges tokens")
    with _applied(model, cell) as handle:
        encoded = _encode(model, exam, handle, cell.scored_layer)
    rows, kept = _rows(model, exam, None), encoded.kept
    assert kept is not None
    return Encoded(rows.masked_fill(~kept.unsqueeze(-1), torch.nan), kept, encoded.rank)


@contextmanager
def _replaying(base: Any, rows: Tensor) -> Iterator[None]:
    """Lets ``get_image_features`` return rows of images whose numbers it is given in place of pixels."""
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    before = base.__dict__.get("get_image_features")  # None: the class's own

    def replay(pixel_values: Tensor, *args: Any, **kwargs: Any) -> Any:
        images: Any = list(rows[pixel_values])
        return BaseModelOutputWithPooling(pooler_output=images)

    base.get_image_features = replay
    try:
        yield
    finally:
        if before is None:
            del base.get_image_features
        else:
            base.get_image_features = before


def _looks_at_questions(cell: Cell) -> bool:
    name = cell.arguments.get("method", "svd")
    known = name in svdprune_ext.methods.available()
    return not known or svdprune_ext.methods.get(name).attention == "decoder"


def _generate(model: Any, processor: Any, exam: Exam, whole_prompts: bool) -> list[str]:
    given = [""] * len(exam.asked)
    for part in exam.parts:
        seen = None if whole_prompts else read_prefix(model, exam.prefix, part.images)
        for batch in part.batches:
            if seen is None:
                known = {"pixel_values": batch.images.to(model.device)}
            else:
                known = {cache_argument(model): rows_of(seen, batch.images - part.images.start)}
            output = model.generate(
                input_ids=batch.input_ids.to(model.device),
                attention_mask=batch.attention_mask.to(model.device),
                max_new_tokens=LONGEST_ANSWER,
                do_sample=False,
                **known,
            )
            new = output[:, batch.input_ids.shape[1] :]
            texts = processor.batch_decode(new, skip_special_tokens=True)
            for place, text in zip(batch.places, texts, strict=True):
                given[place] = text.strip()
    return given
