"""lmms-eval's LLaVA with ``svdprune_ext.apply`` in force. Imports lmms-eval; see ``lmms_eval_plugin``."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from accelerate import PartialState
from lmms_eval.models.chat.llava_hf import LlavaHf
from lmms_eval.models.simple.llava_hf import VICUNA_CHAT_TEMPLATE
from lmms_eval.models.simple.llava_hf import LlavaHf as LlavaHfSimple
from loguru import logger
from transformers import AutoConfig

from svdprune_ext.lmms_eval_plugin import MODEL, check_pruning, split_arguments
from svdprune_ext.models import Handle, apply

_PARAMETERS = inspect.signature(LlavaHfSimple.__init__).parameters
_OF_MODEL = {n: p for n, p in _PARAMETERS.items() if n != "self" and p.kind is not p.VAR_KEYWORD}


class _Failed(BaseException):
    """What ``generate`` raised. lmms-eval would take an ``Exception`` for an empty answer, and score it."""


class _Pruned:
    """Over a LLaVA of lmms-eval: prunes, tells how many tokens were kept, and lets no error pass.

    Modifications: ``generate`` of the loaded model, on the instance, beside those of ``apply``.

    Args:
        **model_args: Those of lmms-eval's ``llava_hf``, and those of ``svdprune_ext.apply``. The model goes
            to ``device`` unless ``device_map`` says more; ``chat_template`` may be "vicuna".

    Raises:
        ValueError: A name is unknown, or an argument is out of its range.
    """

    def __init__(self, **model_args: Any) -> None:
        of_model, pruning = split_arguments(model_args, _OF_MODEL)
        pretrained = of_model.get("pretrained", _OF_MODEL["pretrained"].default)
        check_pruning(AutoConfig.from_pretrained(pretrained), pruning)
        if PartialState().num_processes == 1:
            # Of lmms-eval's default, "", transformers 5 says that it is no device.
            device = of_model.get("device", _OF_MODEL["device"].default)
            of_model.setdefault("device_map", device)
        if of_model.get("chat_template") == "vicuna":
            of_model["chat_template"] = VICUNA_CHAT_TEMPLATE
        super().__init__(**of_model)
        model = self.model  # type: ignore[attr-defined]
        self._kept, self._tokens, self._images = 0, 0, 0
        self.pruning: Handle = apply(model, **pruning)
        model.generate = self._counted(model.generate)

    def generate_until(self, requests: list[Any]) -> Any:
        """The answers; raises what ``generate`` raises."""
        try:
            answers = super().generate_until(requests)  # type: ignore[misc]
        except _Failed as failure:
            raise RuntimeError(f"{MODEL}: generate failed") from failure.__cause__
        if self._images:
            logger.info(
                f"{MODEL}: the language model saw {self._kept / self._images:g} of "
                f"{self._tokens / self._images:g} vision tokens an image, over {self._images} images"
            )
        return answers

    def _counted(self, generate: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(generate)
        def counted(*args: Any, **kwargs: Any) -> Any:
            before = self.pruning.last
            try:
                output = generate(*args, **kwargs)
            except Exception as error:
                raise _Failed from error
            selection = self.pruning.last
            if selection is not None and selection is not before:
                self._kept += sum(selection.num_kept)
                self._tokens += sum(selection.num_tokens)
                self._images += len(selection.kept)
            return output

        return counted


class LlavaHfSVDPrune(_Pruned, LlavaHf):  # type: ignore[misc]
    """With the prompt that the checkpoint's own chat template makes."""


class LlavaHfSVDPruneSimple(_Pruned, LlavaHfSimple):  # type: ignore[misc]
    """With ``--force_simple``: the prompt that ``chat_template`` makes, or the tokenizer's template."""
