"""What a pruned model must compute: the unpatched model, handed the kept tokens alone, row by row."""

from __future__ import annotations

import torch
from tiny_llava import IMAGE_TOKEN, TOKENS

from svdprune_ext.reference import oracle_leverage, oracle_topk


@torch.no_grad()
def kept_positions(model, inputs, keep: int) -> list[torch.Tensor]:
    """For each row, the unpadded positions that a float64 SVD says remain."""
    kept_of_image = []
    if "pixel_values" in inputs:
        hidden = model.model.vision_tower(
            inputs["pixel_values"], output_hidden_states=True
        ).hidden_states[model.config.vision_feature_layer]
        for features in hidden[:, 1:]:
            kept_of_image.append(oracle_topk(oracle_leverage(features).scores, keep))
    rows, image = [], 0
    for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True):
        remains = mask.bool().clone()
        places = (ids == IMAGE_TOKEN).nonzero().flatten()
        for block in places.view(-1, TOKENS):
            remains[block] = False
            remains[block[kept_of_image[image]]] = True
            image += 1
        rows.append(remains.nonzero().flatten())
    return rows


@torch.no_grad()
def merged_embeddings(model, inputs) -> torch.Tensor:
    """[B, L, H]: text embeddings and projected vision tokens, all of them."""
    ids = inputs["input_ids"]
    embeds = model.get_input_embeddings()(ids)
    if "pixel_values" in inputs:
        images = model.get_image_features(inputs["pixel_values"]).pooler_output
        embeds[ids == IMAGE_TOKEN] = torch.cat(list(images)).to(embeds.dtype)
    return embeds


@torch.no_grad()
def logits_by_hand(model, inputs, keep: int, positions: str = "compact") -> list[torch.Tensor]:
    """For each row, logits [kept, V] of the unpatched model on the kept tokens, unpadded."""
    embeds = merged_embeddings(model, inputs)
    result = []
    for row, kept in enumerate(kept_positions(model, inputs, keep)):
        start = int(inputs["attention_mask"][row].argmax())
        ids = (kept - start) if positions == "original" else torch.arange(len(kept))
        out = model(
            inputs_embeds=embeds[row, kept][None],
            position_ids=ids[None],
            attention_mask=torch.ones(1, len(kept), dtype=torch.long),
        )
        result.append(out.logits[0])
    return result


@torch.no_grad()
def greedy_by_hand(
    model, inputs, keep: int, new_tokens: int, positions: str = "compact"
) -> torch.Tensor:
    """[B, new_tokens]: greedy decoding without any cache, on the kept tokens alone."""
    embeds = merged_embeddings(model, inputs)
    rows = []
    for row, kept in enumerate(kept_positions(model, inputs, keep)):
        start = int(inputs["attention_mask"][row].argmax())
        sequence = embeds[row, kept][None]
        ids = (kept - start) if positions == "original" else torch.arange(len(kept))
        tokens: list[torch.Tensor] = []
        for _ in range(new_tokens):
            mask = torch.ones(1, len(ids), dtype=torch.long)
            out = model(inputs_embeds=sequence, position_ids=ids[None], attention_mask=mask)
            tokens.append(out.logits[0, -1].argmax())
            following = model.get_input_embeddings()(tokens[-1])[None, None]
            sequence = torch.cat([sequence, following], 1)
            ids = torch.cat([ids, ids[-1:] + 1])
        rows.append(torch.stack(tokens))
    return torch.stack(rows)
