"""``svdprune eval``: what pruning does to a VLM's answers, by budget and method, and what changes it.

The way through: ``presets`` names the cells (a budget of a method), ``exam`` the images and questions;
``answering`` has the model answer them under ``svdprune_ext.apply``, ``records`` keeps one record for each
finished cell, ``bootstrap`` puts intervals around the accuracies, ``summary`` gathers rows, and ``markdown``
and ``figure`` show them.
"""

from svdprune_ext.evaluation.answering import Answered, answer
from svdprune_ext.evaluation.cells import Cell, Series
from svdprune_ext.evaluation.exam import Exam, prepare
from svdprune_ext.evaluation.presets import BUDGETS, PRESETS
from svdprune_ext.evaluation.run import EvalSettings, run

__all__ = [
    "BUDGETS",
    "PRESETS",
    "Answered",
    "Cell",
    "EvalSettings",
    "Exam",
    "Series",
    "answer",
    "prepare",
    "run",
]
