"""A tiny VLM that ships with the package, and the images and questions it was made for.

``load`` gives a genuine ``LlavaForConditionalGeneration`` and its processor; ``sample`` makes images with
questions; ``evaluate`` counts right answers, pruned or not. What the model can do, and how it was trained:
``MODEL_CARD.md``. Needs NumPy, and for the model the extra ``hf``.
"""

from svdprune_ext.tiny_vlm.evaluation import Accuracy, Answer, Evaluation, evaluate, prompt
from svdprune_ext.tiny_vlm.loading import FOLDER, load
from svdprune_ext.tiny_vlm.questions import COMPOSITIONAL, KINDS, READING, Question
from svdprune_ext.tiny_vlm.samples import Sample, sample
from svdprune_ext.tiny_vlm.splits import SPLITS, TEST, TRAIN, VALIDATION, Split

__all__ = [
    "COMPOSITIONAL",
    "FOLDER",
    "KINDS",
    "READING",
    "SPLITS",
    "TEST",
    "TRAIN",
    "VALIDATION",
    "Accuracy",
    "Answer",
    "Evaluation",
    "Question",
    "Sample",
    "Split",
    "evaluate",
    "load",
    "prompt",
    "sample",
]
