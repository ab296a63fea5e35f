"""What ``bench_prefill`` measures: budgets of SVD-Prune, and methods within the decoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

KEEPS = (576, 192, 128, 64, 32, 16)  # of SVD-Prune; 576 is the model as it is


@dataclass(frozen=True)
class Candidate:
    """One row.

    Attributes:
        name: Its method, for the table.
        keep: Nominal number of vision tokens.
        arguments: Of ``apply``; None is the model as it is.
    """

    name: str
    keep: int
    arguments: dict[str, Any] | None = field(hash=False)

    @property
    def is_within(self) -> bool:
        """Whether it prunes within the decoder."""
        return self.arguments is not None and "method" in self.arguments


WITHIN_DECODER = (
    *(
        Candidate(
            f"SparseVLM {version}", n, {"method": "sparsevlm", "tokens": n, "version": version}
        )
        for version, n in (("1.0", 192), ("1.5", 192), ("2.0", 192), ("1.5", 64), ("2.0", 64))
    ),
    Candidate("FastV", 192, {"method": "fastv", "keep": 192}),
    Candidate("FastV", 64, {"method": "fastv", "keep": 64}),
    Candidate("PyramidDrop", 270, {"method": "pyramiddrop"}),  # (576 + 288 + 144 + 72) / 4
)


def arguments_for(keep: int, vision_tokens: int) -> dict[str, Any] | None:
    """Of ``apply`` with SVD-Prune; all tokens are the model as it is."""
    return None if keep == vision_tokens else {"keep": keep}


def of_svd_prune(keeps: Sequence[int], vision_tokens: int) -> tuple[Candidate, ...]:
    """A row for each budget."""
    return tuple(Candidate("SVD-Prune", keep, arguments_for(keep, vision_tokens)) for keep in keeps)
