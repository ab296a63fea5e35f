"""A generated picture with questions, and the tiny VLM of the package that answers them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import svdprune_ext
from svdprune_ext import tiny_vlm
from svdprune_ext.demo.bundle import Bundle, num_vision_tokens
from svdprune_ext.demo.settings import Settings, SettingsError
from svdprune_ext.tiny_vlm.evaluation import answer_all
from svdprune_ext.tiny_vlm.loading import SHIPPED

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Picture:
    """A picture of the test split.

    Attributes:
        image: What the model sees.
        name: What to call it.
        questions: One of each kind that it admits; the last one is about the sign, if there is one.
    """

    image: Image
    name: str
    questions: tuple[tiny_vlm.Question, ...]


@dataclass(frozen=True)
class Asked:
    """A question with its answers.

    Attributes:
        question: With the right answer.
        full: The model's answer with all tokens.
        pruned: Its answer with the kept ones.
    """

    question: tiny_vlm.Question
    full: str
    pruned: str


def load_picture(number: int) -> Picture:
    """Draws a picture of the test split.

    Args:
        number: Its number in the split, from 0.

    Returns:
        The picture and its questions: the first of each kind.
    """
    from PIL import Image

    made = tiny_vlm.sample(tiny_vlm.TEST, number)
    first = {question.kind: question for question in reversed(made.questions)}
    questions = tuple(first[kind] for kind in tiny_vlm.KINDS if kind in first)
    name = f"picture {number} of the test split, which training never saw"
    return Picture(Image.fromarray(made.image), name, questions)


def load_tiny(settings: Settings) -> Bundle:
    """Loads the tiny VLM of the package.

    Args:
        settings: Checked settings; ``keep`` is checked against the model here.

    Raises:
        SettingsError: It is not there, or has too few vision tokens.
    """
    from transformers import LlavaConfig

    try:
        settings.check_keep(num_vision_tokens(LlavaConfig.from_pretrained(SHIPPED)))
    except OSError as error:
        raise SettingsError(f"--model: this installation has no tiny VLM ({error})") from error
    model, processor = tiny_vlm.load()
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    name = f"tiny VLM of this package, {millions:.1f} M parameters, trained from scratch"
    return Bundle(model, processor, name, meaningful=True, prompt=tiny_vlm.prompt)


def ask_all(bundle: Bundle, picture: Picture, settings: Settings) -> tuple[Asked, ...]:
    """Asks every question with all tokens and with the kept ones.

    Args:
        bundle: The tiny VLM.
        picture: What to ask about.
        settings: How many tokens to keep, and by which rule.

    Returns:
        The answers, in the picture's order.
    """
    asked = [(picture.image, question.text) for question in picture.questions]
    full = answer_all(bundle.model, bundle.processor, asked)
    with svdprune_ext.apply(bundle.model, settings.keep, **settings.rule):
        pruned = answer_all(bundle.model, bundle.processor, asked)
    return tuple(Asked(*each) for each in zip(picture.questions, full, pruned, strict=True))
