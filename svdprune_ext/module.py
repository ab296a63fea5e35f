"""SVD-Prune as an ``nn.Module`` without parameters."""

from __future__ import annotations

from torch import Tensor, nn

from svdprune_ext.ops import prune


class SVDPrune(nn.Module):
    """Keeps the vision tokens of an image that matter: drops into any ``encode_images``.

    Args:
        keep: Number of tokens to keep.
        variance: Share of the energy that the leading directions hold, in (0, 1].
        rank: Number of leading directions; overrides ``variance``.
        center: Subtract the mean token before scoring.
        solver: "auto", "tridiag", "eigh" or "purify".
        select: "topk", the tokens of highest leverage, or "pivoted", as in ``svdprune_ext.prune``.

    Example:
        >>> pruned = SVDPrune(keep=32)(features)  # [B, 576, 1024] -> [B, 32, 1024]
    """

    def __init__(
        self,
        keep: int,
        variance: float = 0.9,
        rank: int | None = None,
        center: bool = False,
        solver: str = "auto",
        select: str = "topk",
    ) -> None:
        super().__init__()
        self.keep = keep
        self.variance = variance
        self.rank = rank
        self.center = center
        self.solver = solver
        self.select = select

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, D] or [N, D] -> [B, keep, D] or [keep, D], in the original order."""
        return prune(
            x,
            self.keep,
            variance=self.variance,
            rank=self.rank,
            center=self.center,
            solver=self.solver,
            select=self.select,
        ).tokens

    def extra_repr(self) -> str:
        """The options, for ``print(module)``."""
        return (
            f"keep={self.keep}, variance={self.variance}, rank={self.rank}, center={self.center}, "
            f"solver={self.solver!r}, select={self.select!r}"
        )
