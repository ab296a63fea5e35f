"""Pruning within the decoder as it was published: one prompt, whole attention matrices, plain loops.

Slow and plain on purpose. It reads the model's weights, and none of the package's code.
"""

from __future__ import annotations

import importlib
import math
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import softmax


@dataclass
class Pruned:
    """What the oracle says of one prompt.

    Attributes:
        kept: For each pruning layer: which vision tokens remain.
        counts: Vision tokens that each layer ran on, recycled ones among them.
        logits: After the prompt and after each further token [1 + new, V].
        tokens: The further tokens.
    """

    kept: list[list[int]] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    logits: list[Tensor] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)


@dataclass
class Rules:
    """A method, spelt out.

    Attributes:
        cuts: Number of tokens to keep by pruning layer; None counts by rank, with ``scale`` and ``bias``.
        plus: SparseVLM+: heads, position debiasing.
        recycles: Whether dropped tokens come back merged.
        original: Whether tokens keep their position ids.
        last_token: Whether the last token alone is asked.
    """

    cuts: dict[int, int | None]
    plus: bool = False
    recycles: bool = True
    original: bool = False
    last_token: bool = False
    scale: float = 1.0
    bias: float = 0.0


def by_score(scores: list[float], count: int) -> list[int]:
    """The indices of the highest, the lower first among equals, in ascending order."""
    return sorted(sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:count])


def raters(vision: Tensor, text: Tensor) -> list[int]:
    relevance = softmax(vision @ text.T, 1).mean(0)
    above = [t for t in range(len(text)) if relevance[t] > relevance.mean()]
    return above or list(range(len(text)))


def clusters(x: Tensor, count: int) -> list[list[int]]:
    """Density peaks by the definition: members of each cluster, by falling rank of the centres."""
    n, everyone = len(x), range(len(x))
    d = [[(x[i] - x[j]).norm().item() / math.sqrt(x.shape[1]) for j in everyone] for i in everyone]
    density = [math.exp(-sum(s**2 for s in sorted(d[i])[:count]) / count) for i in everyone]
    farthest = max(max(row) for row in d)

    def reach(i: int) -> float:
        denser = [j for j in everyone if (-density[j], j) < (-density[i], i)]
        return min((d[i][j] for j in denser), default=farthest)

    peaks = [reach(i) * density[i] for i in everyone]
    centres = sorted(everyone, key=lambda i: (-peaks[i], i))[:count]
    members: list[list[int]] = [[] for _ in centres]
    for i in range(n):
        own = min(range(count), key=lambda c: (d[centres[c]][i], c))
        members[centres.index(i) if i in centres else own].append(i)
    return members


def vision_scores(attention, rows, columns, rules, turns, scale):
    """[N] and P [rows, N] from the whole matrix [H, L, L]."""
    if rules.plus:
        attention = attention / (turns @ turns.T * scale)
        mass = attention[:, rows][:, :, columns].sum((1, 2)).tolist()
        best = sorted(range(len(mass)), key=lambda h: (-mass[h], h))[:14]
        attention = attention[best]
    paid = attention.mean(0)[rows][:, columns]
    return paid.mean(0), paid


def kept_count(budget: int | None, paid: Tensor, rules: Rules) -> int:
    n = paid.shape[1]
    if budget is not None:
        return min(budget, n)
    rank = int(torch.linalg.matrix_rank(paid.float()))
    return n if rank >= n else min(int(rank * rules.scale + rules.bias), n - 1)


class Layers:
    """The decoder by hand, each layer with keys, values and a count of its own."""

    def __init__(self, decoder):
        self.decoder = decoder
        source = importlib.import_module(type(decoder).__module__)
        self.rotate = source.apply_rotary_pos_emb
        self.cache = [(None, None) for _ in decoder.layers]

    def run(self, number: int, x: Tensor, ids: Tensor):
        """One layer on [L, D] at positions ids: its output, and the attention [H, L, S] of its tokens."""
        layer, heads = self.decoder.layers[number], self.decoder.config.num_attention_heads
        normed, attn = layer.input_layernorm(x), layer.self_attn
        cos, sin = self.decoder.rotary_emb(x[None], position_ids=ids[None])

        def split(values, norm=None):
            values = values.view(1, len(x), -1, attn.head_dim)
            return (values if norm is None else norm(values)).transpose(1, 2)

        q = split(attn.q_proj(normed), getattr(attn, "q_norm", None))
        k = split(attn.k_proj(normed), getattr(attn, "k_norm", None))
        q, k = self.rotate(q, k, cos, sin)
        v = split(attn.v_proj(normed))
        if self.cache[number][0] is not None:
            k = torch.cat([self.cache[number][0], k], 2)
            v = torch.cat([self.cache[number][1], v], 2)
        self.cache[number] = k, v
        k, v = (t[0].repeat_interleave(heads // t.shape[1], 0) for t in (k, v))
        products = q[0] @ k.mT / math.sqrt(attn.head_dim)
        seen = torch.ones(len(x), k.shape[1]).tril(k.shape[1] - len(x)).bool()
        attention = products.masked_fill(~seen, -torch.inf).softmax(-1)
        mixed = (attention @ v).transpose(0, 1).reshape(len(x), -1)
        x = x + attn.o_proj(mixed)
        turned = torch.ones(1, 1, len(x), attn.head_dim, dtype=x.dtype)
        turns, _ = self.rotate(turned, turned, cos, sin)
        return x + layer.mlp(layer.post_attention_layernorm(x)), attention, turns[0, 0]


@torch.no_grad()
def prune_by_hand(model, embeds: Tensor, vision: Tensor, rules: Rules, new: int = 0) -> Pruned:
    """One prompt [L, D], with vision tokens where bool [L] is true, and ``new`` greedy tokens after it."""
    layers, result, x = Layers(model.get_decoder()), Pruned(), embeds
    number = torch.where(vision, vision.cumsum(0) - 1, -1).tolist()  # of a vision token; -1: text
    start = max(i for i, n in enumerate(number) if n >= 0) + 1
    text = list(range(start, len(x)))
    chosen = [text[t] for t in raters(x[vision], x[text])]
    asked = [len(x) - 1] if rules.last_token else chosen
    asked = [place - len(x) for place in asked]  # from the end, where nothing moves
    ids = torch.arange(len(x))
    for layer in range(len(layers.decoder.layers)):
        is_vision = [i for i, n in enumerate(number) if n != -1]
        result.counts.append(len(is_vision))
        x, attention, turns = layers.run(layer, x, ids)
        if layer not in rules.cuts:
            continue
        rows = [len(x) + place for place in asked]
        scale = layers.decoder.layers[layer].self_attn.head_dim ** -0.5
        scores, paid = vision_scores(attention, rows, is_vision, rules, turns, scale)
        count = kept_count(rules.cuts[layer], paid, rules)
        best = by_score(scores.tolist(), count)
        stay = [is_vision[i] for i in best]
        lost = [i for i in is_vision if i not in stay]
        merged = []
        if rules.recycles and lost:
            of_lost = [scores[is_vision.index(i)].item() for i in lost]
            again = [lost[i] for i in by_score(of_lost, int(len(lost) * 0.3) + 1)]
            groups = clusters(x[again], len(again) // 10 + 1)
            merged = [x[[again[i] for i in group]].mean(0) for group in groups]
        before = [i for i in range(start) if i not in lost]
        x_text, n_text, i_text = x[start:], number[start:], ids[start:]
        x = torch.cat([x[before], *[m[None] for m in merged], x_text])
        number = [number[i] for i in before] + [-2] * len(merged) + n_text
        ids = torch.cat([ids[before], i_text]) if rules.original else torch.arange(len(x))
        start = len(before) + len(merged)
        result.kept.append([n for n in number if n >= 0])
    decode(model, layers, x, len(embeds), rules, new, result)
    return result


def decode(model, layers: Layers, x: Tensor, length: int, rules: Rules, new: int, result: Pruned):
    """Greedy tokens, each layer at the position that follows its own tokens, or the prompt's."""
    for step in range(new + 1):
        logits = model.lm_head(layers.decoder.norm(x[-1]))
        result.logits.append(logits)
        if step == new:
            return
        result.tokens.append(int(logits.argmax()))
        x = model.get_input_embeddings()(torch.tensor([result.tokens[-1]]))
        for layer in range(len(layers.decoder.layers)):
            here = length + step if rules.original else layers.cache[layer][0].shape[2]
            x, _, _ = layers.run(layer, x, torch.tensor([here]))
