"""What a pruned model must compute: the unpatched model, handed the kept tokens alone, row by row."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any

import torch
from tiny_vlms import IMAGE, VIDEO, tiny_of
from torch import Tensor

from svdprune_ext.reference import oracle_leverage, oracle_topk

RANK = 2  # below the number of tokens of the smallest image, so that their scores differ


@contextmanager
def recorded(module: torch.nn.Module, calls: list[dict[str, Any]]):
    """Notes arguments and outputs of a module's calls."""

    def note(_: Any, args: Any, kwargs: Any, output: Any) -> None:
        calls.append({"args": args, "output": output, **kwargs})

    hook = module.register_forward_hook(note, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


def vision_inputs(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Those of ``get_image_features``."""
    names = ("pixel_values", "image_sizes", "image_grid_thw", "batch_num_images")
    return {name: inputs[name] for name in names if name in inputs}


@torch.no_grad()
def scored_features(model, inputs, values: Tensor | None = None) -> list[tuple[Tensor, Tensor]]:
    """Of each image: the features of its tokens [n, D], and their places among its rows [n].

    A token's features are those of the projector's output row that it equals; a row that equals none is a
    separator. ``values`` stand in for the encoder's features.
    """
    tiny, calls = tiny_of(model), []
    vision = vision_inputs(inputs)
    with recorded(tiny.projector(model), calls):
        rows = model.get_image_features(**vision, return_dict=True).pooler_output
    encoded = calls[0]["args"][0] if values is None else values
    if tiny.scored is not None:
        return tiny.scored(model, encoded, vision)
    features = tiny.features(model, encoded, vision)
    projected = calls[0]["output"].flatten(0, -2)
    rows = torch.cat([image.flatten(0, -2) for image in rows])
    result = []
    for image in rows.split(sizes_of_images(model, inputs)):
        equal = (image[:, None] == projected[None]).all(-1)
        places = equal.any(1).nonzero().flatten()
        result.append((features[equal[places].int().argmax(1)], places))
    return result


def sizes_of_images(model, inputs) -> list[int]:
    """Number of rows, placeholders, of each image."""
    sizes = tiny_of(model).tokens(model, vision_inputs(inputs))
    placeholders, image = int((inputs["input_ids"] == IMAGE).sum()), 0
    while placeholders > 0:  # an empty image has none
        placeholders -= sizes[image]
        image += 1
    return sizes[:image]


def kept_of_images(model, inputs, keep: int) -> list[Tensor]:
    """Of each image: the rows that a float64 SVD says remain."""
    kept = []
    for features, places in scored_features(model, inputs):
        scores = oracle_leverage(features, rank=RANK).scores
        kept.append(places[oracle_topk(scores, min(keep, len(scores)))].sort().values)
    return kept


def kept_positions(model, inputs, keep: int, images: list[Tensor] | None = None) -> list[Tensor]:
    """For each row of the batch, the unpadded positions that remain: of each image, its rows ``images``."""
    if any(name.startswith("pixel_values") for name in inputs):
        images = kept_of_images(model, inputs, keep) if images is None else images
        sizes = sizes_of_images(model, inputs)
    rows, image = [], 0
    for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True):
        remains = mask.bool().clone()
        places = ((ids == IMAGE) | (ids == VIDEO)).nonzero().flatten()
        while len(places):
            block, places = places[: sizes[image]], places[sizes[image] :]
            remains[block] = False
            remains[block[images[image]]] = True
            image += 1
        rows.append(remains.nonzero().flatten())
    return rows


@torch.no_grad()
def decoder_inputs(model, inputs, **options) -> dict[str, Any]:
    """What the unpatched model hands to its decoder."""
    calls: list[dict[str, Any]] = []
    with recorded(model.get_decoder(), calls):
        model(**inputs, **options, use_cache=False)
    types = {k: v for k, v in inputs.items() if k == "token_type_ids"}
    return {**calls[0], **types}


def _positions(model, given: Tensor | None, row: int, kept: Tensor, start: int, how: str) -> Tensor:
    mrope = tiny_of(model).mrope
    if how == "compact":
        ids = torch.arange(len(kept))
        return ids.expand(3, 1, -1) if mrope else ids[None]
    if mrope:
        return given[-3:, row, kept][:, None]
    return (kept - start)[None]


@torch.no_grad()
def run_by_hand(model, call, row: int, embeds: Tensor, ids: Tensor, kept: Tensor) -> Tensor:
    """Logits [K, V] of one row's kept tokens, and whatever follows them."""
    options = {}
    if call.get("visual_pos_masks") is not None:
        vision = call["visual_pos_masks"]
        chosen = torch.zeros_like(vision)
        chosen[row, kept] = True
        tail = torch.zeros(embeds.shape[1] - len(kept), dtype=torch.bool)
        options["visual_pos_masks"] = torch.cat([vision[row, kept], tail])[None]
        options["deepstack_visual_embeds"] = [
            rows[chosen[vision]] for rows in call["deepstack_visual_embeds"]
        ]
    mask = torch.ones(1, embeds.shape[1], dtype=torch.long)
    module = model.get_decoder()
    if "token_type_ids" in call:  # the model, not its decoder, makes the mask from them
        module = model.base_model
        types = call["token_type_ids"][row, kept]
        tail = types.new_full((embeds.shape[1] - len(kept),), tiny_of(model).next_type)
        options["token_type_ids"] = torch.cat([types, tail])[None]
    out = module(
        inputs_embeds=embeds, position_ids=ids, attention_mask=mask, use_cache=False, **options
    )
    return model.lm_head(out.last_hidden_state)[0]


@torch.no_grad()
def logits_by_hand(
    model, inputs, keep: int, positions: str = "compact", kept: list[Tensor] | None = None
) -> list[Tensor]:
    """For each row, logits [kept, V] of the unpatched model on the kept tokens, unpadded."""
    call, result = decoder_inputs(model, inputs), []
    for row, remains in enumerate(kept_positions(model, inputs, keep) if kept is None else kept):
        start = int(inputs["attention_mask"][row].argmax())
        ids = _positions(model, call["position_ids"], row, remains, start, positions)
        embeds = call["inputs_embeds"][row, remains][None]
        result.append(run_by_hand(model, call, row, embeds, ids, remains))
    return result


@torch.no_grad()
def greedy_by_hand(model, inputs, keep: int, new_tokens: int, positions: str = "compact") -> Tensor:
    """[B, new_tokens]: greedy decoding without any cache, on the kept tokens alone."""
    call, rows = decoder_inputs(model, inputs), []
    for row, kept in enumerate(kept_positions(model, inputs, keep)):
        start = int(inputs["attention_mask"][row].argmax())
        ids = _positions(model, call["position_ids"], row, kept, start, positions)
        sequence = call["inputs_embeds"][row, kept][None]
        tokens: list[Tensor] = []
        for _ in range(new_tokens):
            logits = run_by_hand(model, call, row, sequence, ids, kept)
            tokens.append(logits[-1].argmax())
            following = model.get_input_embeddings()(tokens[-1])[None, None]
            sequence = torch.cat([sequence, following], 1)
            ids = torch.cat([ids, ids.amax().expand_as(ids[..., -1:]) + 1], -1)
        rows.append(torch.stack(tokens))
    return torch.stack(rows)
