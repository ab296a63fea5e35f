"""Real-time vision-token pruning by SVD leverage scores (SVD-Prune, arXiv 2604.11530)."""

from importlib.metadata import version as _version

from svdprune_ext._load import load_libraries as _load_libraries

has_cuda = _load_libraries()

from svdprune_ext import _register, methods  # noqa: E402  (need the op schemas)
from svdprune_ext.energy import captured_energy  # noqa: E402
from svdprune_ext.in_decoder import FastV, PyramidDrop, SparseVLM  # noqa: E402
from svdprune_ext.models import apply, supported_models  # noqa: E402
from svdprune_ext.module import SVDPrune  # noqa: E402
from svdprune_ext.ops import (  # noqa: E402
    Diagnosis,
    LeverageScores,
    Pruned,
    PrunedAdaptive,
    diagnose,
    leverage_scores,
    prune,
    prune_adaptive,
    prune_varlen,
)
from svdprune_ext.rater import RaterScores, rater_scores, rater_scores_by_head  # noqa: E402

if not has_cuda:
    _register.refuse_cuda()

__version__ = _version("svdprune_ext")

__all__ = [
    "Diagnosis",
    "FastV",
    "LeverageScores",
    "Pruned",
    "PrunedAdaptive",
    "PyramidDrop",
    "RaterScores",
    "SVDPrune",
    "SparseVLM",
    "apply",
    "captured_energy",
    "diagnose",
    "has_cuda",
    "leverage_scores",
    "methods",
    "prune",
    "prune_adaptive",
    "prune_varlen",
    "rater_scores",
    "rater_scores_by_head",
    "supported_models",
]
