"""What pruning saves, by arithmetic on a model's configuration: FLOPs and key-value cache, no weights.

Note [what is counted]
Matrix products only, two FLOPs for a multiply-add, as ``torch.utils.flop_counter`` does: a linear layer
from a to b features costs 2 a b a token, attention 4 h for each pair of a query and a key, h being heads
times head width. Attention is counted in full, though it is causal; the head on the last token alone, as
``generate`` calls it, whether or not its weights are the embedding's. The operator's own work is left
out: on LLaVA-1.5-7B at most 0.06 % of what is left after pruning.
"""

from __future__ import annotations

from dataclasses import dataclass

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Blocks:
    """A stack of transformer layers. ``width``, ``mlp_width``, ``head_width``: in features."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    head_width: int
    mlp_width: int
    mlp_matrices: int

    def flops(self, tokens: int, pairs: int | None = None) -> int:
        """FLOPs of one pass.

        Args:
            tokens: Length of the sequence.
            pairs: Pairs of query and key, summed over all layers; by default all pairs in each.
        """
        pairs = self.layers * tokens**2 if pairs is None else pairs
        attention = self.width * self.head_width * 2 * (self.heads + self.kv_heads)
        mlp = self.mlp_matrices * self.width * self.mlp_width
        products = 2 * self.layers * tokens * (attention + mlp)
        return products + 4 * pairs * self.heads * self.head_width

    def cached_values(self, tokens: int) -> int:
        """Numbers that the key-value cache holds after ``tokens`` tokens."""
        return 2 * self.layers * tokens * self.kv_heads * self.head_width


@dataclass(frozen=True)
class Shape:
    """A VLM with one image, as far as the arithmetic needs it.

    Attributes:
        vision_flops: Of the vision tower, on all views of the image.
        projector_flops: Of the projector, for one of its rows.
        projected_rows: Rows that the projector reads without pruning.
        row_by_row: Whether ``apply`` runs the projector on the kept tokens alone.
        vision_tokens: Tokens of the image that can be pruned.
        separators: Tokens of the image that always stay.
        language: The decoder's layers.
        vocabulary: Rows of the head.
        window: Length of the decoder's sliding window, if there is one.
    """

    vision_flops: int
    projector_flops: int
    projected_rows: int
    row_by_row: bool
    vision_tokens: int
    separators: int
    language: Blocks
    vocabulary: int
    window: int | None


@dataclass(frozen=True)
class Cost:
    """FLOPs of one batch up to its first new token, and bytes of the key-value cache then.

    Attributes:
        vision_tokens: Vision tokens that the decoder gets for each image.
        prompt_tokens: Length of each prompt, with the image's tokens.
        vision: FLOPs of the vision tower.
        projector: FLOPs of the projector.
        prefill: FLOPs of the language model.
        kv_cache: Bytes.
    """

    vision_tokens: int
    prompt_tokens: int
    vision: int
    projector: int
    prefill: int
    kv_cache: int

    @property
    def total(self) -> int:
        """FLOPs of vision tower, projector and language model."""
        return self.vision + self.projector + self.prefill

    @property
    def prefill_share(self) -> float:
        """Share of the language model in the FLOPs, in [0, 1]."""
        return self.prefill / self.total


def estimate(
    shape: Shape,
    keep: int | None = None,
    *,
    text_tokens: int = 64,
    batch: int = 1,
    dtype: str = "bfloat16",
    after_projector: bool = False,
) -> Cost:
    """What a prompt with one image costs.

    Args:
        shape: From ``vlm_shapes.shape_of``.
        keep: Vision tokens to keep, in [1, N]; None for all, unpruned.
        text_tokens: Tokens of the prompt beside the image's.
        batch: Number of such prompts.
        dtype: Of the key-value cache: "float32", "bfloat16" or "float16".
        after_projector: Prune what the projector returns, so that it runs on all tokens.

    Returns:
        FLOPs and bytes; see the note at the head of this file.

    Raises:
        ValueError: An argument is out of its range, or the prompt is longer than a sliding window.
    """
    tokens = shape.vision_tokens
    check("--keep", keep is None or 1 <= keep <= tokens, f"in [1, {tokens}]", keep)
    check("--text-tokens", text_tokens >= 0, "at least 0", text_tokens)
    check("--batch", batch >= 1, "at least 1", batch)
    check("--dtype", dtype in BYTES, f"one of {', '.join(BYTES)}", dtype)
    length = (tokens if keep is None else keep) + shape.separators + text_tokens
    fits = shape.window is None or length <= shape.window
    check("--text-tokens", fits, f"such that the prompt fits the window of {shape.window}", length)
    prunes_before = keep is not None and shape.row_by_row and not after_projector
    rows = keep if prunes_before and keep is not None else shape.projected_rows
    prefill = shape.language.flops(length) + 2 * shape.language.width * shape.vocabulary
    return Cost(
        vision_tokens=length - text_tokens,
        prompt_tokens=length,
        vision=batch * shape.vision_flops,
        projector=batch * rows * shape.projector_flops,
        prefill=batch * prefill,
        kv_cache=batch * shape.language.cached_values(length) * BYTES[dtype],
    )


def check(name: str, right: bool, expected: str, got: object) -> None:
    """Raises ValueError with the option, what it must be, and what came, unless ``right``."""
    if not right:
        raise ValueError(f"{name}: must be {expected}, got {got!r}")
