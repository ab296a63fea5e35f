"""What ``apply`` has to know about a family of VLMs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass
class Grid:
    """The vision tokens of one call of the vision encoder, and the features they are scored by.

    A token is what the decoder sees: one row of what the family's ``get_image_features`` returns. Where the
    projector merges patches, a token's features are those of its patches, arranged as the projector
    does before its first weight.

    Attributes:
        features: Encoder features of the T tokens [T, D].
        tiles: Number of tokens of each tile of each image. The tokens stand in this order.
        rows: The row of the projector's input, flattened to [-1, D], that becomes each token, int64 [T]; None
            if they are the tokens, in order. Asked only of a projector that maps row by row.
        places: Where each token stands among the rows that ``get_image_features`` returns, int64 [T]; None if
            they are the tokens, in order. The other rows are separators: they have no features, and
            go as soon as their image loses a token.
        row_counts: Number of rows of each image that ``get_image_features`` returns; to be given with
            ``places``.
    """

    features: Tensor
    tiles: list[list[int]]
    rows: Tensor | None = None
    places: Tensor | None = None
    row_counts: list[int] | None = None

    def rows_of_images(self) -> list[int]:
        """Number of rows of each image that ``get_image_features`` returns."""
        return [sum(image) for image in self.tiles] if self.row_counts is None else self.row_counts


Call = Mapping[str, Any]  # the arguments of a call of get_image_features, by name
ToGrid = Callable[[Any, Tensor, Call], Grid]


@dataclass(frozen=True)
class Family:
    """Where a family of VLMs keeps its parts. See ``docs/adding-a-model.md``.

    All functions take the base model, which is the model without its head.

    Attributes:
        model_class: Name of the transformers class.
        projector: The module between vision tower and language model, called once for all images; its
            first argument is the encoder's features.
        image_grid: Their tokens, for a call of ``get_image_features``.
        video_grid: The same for ``get_video_features``; None if the family has none.
        tower: The vision tower, where its patches are the rows of the projector's input; None where they are
            not. Methods that go by its attention need it.
        row_by_row: Whether the projector maps each row of its input by itself. It then runs on kept tokens
            only, unless they are scored behind it.
        positions: Default of ``apply``'s argument.
        first_position: The first position id, where the base model counts them from the length of the cache;
            None where it leaves that to the decoder.
    """

    model_class: str
    projector: Callable[[Any], nn.Module]
    image_grid: ToGrid
    video_grid: ToGrid | None = None
    tower: Callable[[Any], nn.Module] | None = None
    row_by_row: bool = False
    positions: str = "compact"
    first_position: int | None = None


def images_of_equal_size(base: Any, features: Tensor, call: Call) -> Grid:
    """The grid of a projector that takes [images, N, D] and returns [images, N, H]."""
    images, tokens, _ = features.shape
    return Grid(features.flatten(0, 1), [[tokens]] * images)
