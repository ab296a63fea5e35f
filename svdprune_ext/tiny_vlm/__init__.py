"""Images and questions for a tiny VLM, to measure what pruning does to answers.

``sample`` makes images with questions; ``evaluate`` counts right answers, pruned or not; ``load`` reads
a ``LlavaForConditionalGeneration`` that ``python -m bench.tiny_vlm.train`` has trained on them. Needs
NumPy, and for the model the extra ``hf``.
"""

from svdprune_ext.tiny_vlm.evaluation import Accuracy, Answer, Evaluation, evaluate, prompt
from svdprune_ext.tiny_vlm.loading import load
from svdprune_ext.tiny_vlm.questions import COMPOSITIONAL, KINDS, READING, Question
from svdprune_ext.tiny_vlm.samples import Sample, sample
from svdprune_ext.tiny_vlm.splits import SPLITS, TEST, TRAIN, VALIDATION, Split

__all__ = [
    "COMPOSITIONAL",
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
