"""What is worth comparing: the methods with one another, and what the paper of SVD-Prune leaves open."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from svdprune_ext import methods
from svdprune_ext.evaluation.cells import Series

BUDGETS = (192, 128, 64, 32, 16, 8)
BUDGETS_OF = {"quick": (32, 16)}  # of presets with others
REFERENCE = Series("SVD leverage", "methods")  # as in the paper; the others are compared with it

_PIVOTED = {"select": "pivoted"}
_PIVOTED_SERIES = Series("pivoted", "pivoted", _PIVOTED)
PAPER = "as in the paper"  # what the reference is called among its variants

_NAMES = {
    "ridge": "ridge leverage",
    "qdeim": "Q-DEIM",
    "css": "column subset selection",
    "random": "random",
    "uniform": "uniform grid",
    "norm": "L2 norm",
    "cls_attention": "[CLS] attention (FasterVLM)",
    "divprune": "max-min diversity (DivPrune)",
    "cdpruner": "DPP without text (CDPruner)",
    "dart": "duplication (DART)",
    "visionzip": "dominant + merged (VisionZip)",
}


def _methods(seeds: int) -> list[Series]:
    """Every method that ``apply`` runs at SVD-Prune's place."""
    series = [REFERENCE, Series("pivoted rows (`select`)", "methods", _PIVOTED)]
    for name in methods.available():
        if name == "svd" or methods.get(name).attention == "decoder":
            continue
        drawn = tuple(range(seeds)) if name == "random" else ()
        series.append(Series(_NAMES.get(name, name), "methods", {"method": name}, seeds=drawn))
    return series


def _ablations(seeds: int) -> list[Series]:
    """Rank, centring, place, layer, budget and positions, one at a time."""
    cut = "where the spectrum is cut (paper: 90 % of the energy)"
    series = [
        _paper(cut),
        *(
            Series(f"{100 * share:g} % of the energy", cut, {"variance": share})
            for share in (0.5, 0.7, 0.8, 0.95, 0.99)
        ),
        *(Series(f"rank {rank}", cut, {"rank": rank}) for rank in (4, 8, 16, 32)),
    ]
    centre = "centred or not"
    series += [
        _paper(centre),
        Series("pivoted", centre, _PIVOTED),
        Series("pivoted, centred", centre, {**_PIVOTED, "center": True}),
        Series("centred", centre, {"center": True}),
        Series("centred, 95 % of the energy", centre, {"center": True, "variance": 0.95}),
    ]
    place = "features before or behind the projector"
    series += [_paper(place), Series("behind the projector", place, {"features": "projector"})]
    layer = "features of the last or the last but one vision layer"
    series += [_paper(layer), Series("scored by the last layer", layer, scored_layer=-1)]
    budget = "fixed or adaptive budget"
    series += [
        Series(f"coverage {share:g}", budget, {"coverage": share}) for share in (0.3, 0.5, 0.7, 0.9)
    ]
    numbering = "compact or original positions"
    for name, arguments in (
        ("SVD leverage", {}),
        ("pivoted", _PIVOTED),
        ("uniform grid", {"method": "uniform"}),
        ("max-min diversity (DivPrune)", {"method": "divprune"}),
    ):
        original = {**arguments, "positions": "original"}
        series += [
            Series(f"{name}, compact", numbering, arguments),
            Series(f"{name}, original", numbering, original),
        ]
    within = "within the decoder, behind the second layer (those before see all tokens)"
    series += [
        _paper(within),
        Series("FastV", within, {"method": "fastv", "options": {"layer": 2}}),
        *(
            Series(f"SparseVLM {version}", within, _sparsevlm(version))
            for version in ("1.5", "2.0")
        ),
    ]
    return series


def _sparsevlm(version: str) -> dict[str, Any]:
    return {"method": "sparsevlm", "version": version, "options": {"layers": [1]}}


def _pivoted(seeds: int) -> list[Series]:
    """What "pivoted" looks at: which features, and whether their lengths count."""
    unit, behind = {"method": "cdpruner"}, {"features": "projector"}
    return [
        Series(PAPER, "pivoted"),
        _PIVOTED_SERIES,
        Series("centred", "pivoted", {**_PIVOTED, "center": True}),
        Series("rows of unit length (DPP without text)", "pivoted", unit),
        Series("behind the projector", "pivoted", {**_PIVOTED, **behind}),
        Series("behind the projector, unit length", "pivoted", {**unit, **behind}),
        Series(
            "on the leading directions, weighted (Q-DEIM)",
            "pivoted",
            {"method": "qdeim", "options": {"weighted": True}},
        ),
        Series("max-min diversity (DivPrune)", "pivoted", {"method": "divprune"}),
    ]


def _quick(seeds: int) -> list[Series]:
    """A few methods, one seed of each."""
    wanted = ("svd", "random", "uniform", "divprune")
    return [
        Series(s.name, s.group, s.arguments, seeds=s.seeds[:1])
        for s in _methods(seeds)
        if s.arguments.get("method", "svd") in wanted
    ]


def _paper(group: str) -> Series:
    return Series(PAPER, group)


PRESETS: Mapping[str, Callable[[int], list[Series]]] = {
    "methods": _methods,
    "ablations": _ablations,
    "pivoted": _pivoted,
    "quick": _quick,
}


def reference_of(preset: str) -> Series:
    """What the other series of a preset are compared with."""
    return _PIVOTED_SERIES if preset == "pivoted" else REFERENCE
