"""Methods that choose vision tokens, behind one interface; ``docs/methods.md`` tells them apart.

selected = svdprune_ext.methods.get("divprune").select(features, keep=32)
"""

from __future__ import annotations

from svdprune_ext.methods import attention, deflation, diversity, leverage, merging, positions
from svdprune_ext.methods.attention import fastv_scores
from svdprune_ext.methods.method import Method, Selected

__all__ = ["Method", "Selected", "available", "fastv_scores", "get"]

_METHODS = (
    Method("svd", "SVD-Prune, arXiv 2604.11530", leverage.svd),
    Method("ridge", "Cohen, Musco, Musco, arXiv 1511.07263", leverage.ridge),
    Method("qdeim", "Q-DEIM, arXiv 1505.00370", deflation.qdeim),
    Method("css", "Farahat, Ghodsi, Kamel, ICDM 2011", deflation.css),
    Method("random", "none: a control", positions.random),
    Method("uniform", "none: a control", positions.uniform),
    Method("norm", "none: a control", positions.norm),
    Method("cls_attention", "FasterVLM, arXiv 2412.01818", attention.cls_attention, "cls"),
    Method("divprune", "DivPrune, arXiv 2503.02175", diversity.divprune),
    Method("cdpruner", "CDPruner, arXiv 2506.10967", diversity.cdpruner),
    Method("dart", "DART, arXiv 2502.11494", diversity.dart),
    Method("visionzip", "VisionZip, arXiv 2412.04467", merging.visionzip, "received", True),
    Method("fastv", "FastV, arXiv 2403.06764", attention.fastv, "decoder"),
)


def available() -> list[str]:
    """Names of all methods."""
    return [method.name for method in _METHODS]


def get(name: str) -> Method:
    """The method of that name.

    Raises:
        ValueError: There is none.
    """
    for method in _METHODS:
        if method.name == name:
            return method
    raise ValueError(f"methods.get: name must be one of {', '.join(available())}, got {name!r}")
