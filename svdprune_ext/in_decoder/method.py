"""What a method is that prunes within the decoder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from torch import Tensor

from svdprune_ext.in_decoder.attention import LayerCall

Layers = tuple[int, ...]


@dataclass(frozen=True)
class Prompt:
    """The tokens of a step, as the first decoder layer gets them.

    Attributes:
        embeddings: [B, M, D].
        valid: Which of them are no padding, bool [B, M].
        vision: Which of them are vision tokens, bool [B, M].
        text: The text after a row's last vision token; none in a row without, bool [B, M].
        most_vision: The most vision tokens of a row.
        most_text: The most tokens of such text of a row.
    """

    embeddings: Tensor
    valid: Tensor
    vision: Tensor
    text: Tensor
    most_vision: int
    most_text: int


@dataclass(frozen=True)
class Scores:
    """What a pruning layer says of the vision tokens.

    Attributes:
        by_token: The higher, the better [B, N]; of equal ones the lower index is kept.
        attention: P [B, R, N], where the method counts by its rank.
    """

    by_token: Tensor
    attention: Tensor | None = None


class DecoderMethod(ABC):
    """A method that drops vision tokens behind some of the decoder's layers.

    Each such layer runs on all its tokens, and its output is pruned.

    Attributes:
        name: Its name in ``apply``.
        recycles: Whether dropped tokens come back merged.
        positions: "compact": every layer counts its own tokens. "original": a token keeps its position id.
    """

    name: ClassVar[str]
    recycles: bool
    positions: str

    @abstractmethod
    def layers_of(self, depth: int) -> Layers:
        """The pruning layers of a decoder of so many layers, 0-based, ascending."""

    @abstractmethod
    def raters(self, prompt: Prompt) -> Tensor:
        """Whose attention counts, bool [B, M]; none in rows without vision tokens."""

    @abstractmethod
    def most_raters(self, prompt: Prompt) -> int:
        """No row has more raters."""

    @abstractmethod
    def score(self, call: LayerCall) -> Scores:
        """Scores the vision tokens by the attention of one pruning layer."""

    @abstractmethod
    def counts(
        self, stage: int, scores: Scores, tokens: Sequence[int], at_first: Sequence[int]
    ) -> list[int]:
        """How many of each row's vision tokens are kept.

        Args:
            stage: Which of the pruning layers it is, from 0.
            scores: What ``score`` returned.
            tokens: Number of vision tokens of each row that the layer ran on.
            at_first: The same of the first layer.
        """


def check(method: str, name: str, right: bool, expected: str, got: object) -> None:
    """Refuses an argument.

    Raises:
        ValueError: It is not right.
    """
    if not right:
        raise ValueError(f"{method}: {name} must be {expected}, got {got!r}")


def is_count(value: object) -> bool:
    """Whether a value is an int >= 1."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def is_budget(value: object) -> bool:
    """Whether a value is an int >= 1 or a float in (0, 1]."""
    return is_count(value) or (isinstance(value, float) and 0 < value <= 1)


def checked_layers(method: str, layers: Sequence[int] | None, stages: int | None) -> Layers | None:
    """Layers as a tuple.

    Raises:
        ValueError: They are not ascending ints from 0, or not as many as there are stages.
    """
    if layers is None:
        return None
    as_many = "" if stages is None else f"{stages} "
    given = tuple(layers) if isinstance(layers, Sequence) else ()
    right = (
        all(isinstance(layer, int) and layer >= 0 for layer in given)
        and all(a < b for a, b in pairwise(given))
        and len(given) == (max(len(given), 1) if stages is None else stages)
    )
    check(method, "layers", right, f"{as_many}ascending ints >= 0", layers)
    return given
