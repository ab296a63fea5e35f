"""Runs the model with all vision tokens and with few, and takes the time of every part by hooks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import svdprune_ext
from svdprune_ext.demo.bundle import Bundle
from svdprune_ext.demo.settings import Settings

if TYPE_CHECKING:
    from PIL.Image import Image

PARTS = (
    "image processing",
    "vision tower",
    "pruning",
    "projector",
    "language-model prefill",
    "decoding, per token",
)


@dataclass
class Run:
    """One way through the model, measured ``rounds`` times.

    Attributes:
        seconds: Median seconds of each of ``PARTS``.
        text: What the model generated.
        features: Vision features before pruning [N, D].
        projected: Those that the projector got [keep, D]; all of them without pruning.
        pixels: Input of the vision tower [3, height, width].
        indices: Kept tokens, ascending [keep]; None without pruning.
        scores: Of every token [N], as ``svdprune_ext.prune`` returns them; None without pruning.
        rank: Likewise; None without pruning.
    """

    seconds: dict[str, float]
    text: str
    features: Tensor
    projected: Tensor
    pixels: Tensor
    indices: Tensor | None = None
    scores: Tensor | None = None
    rank: int | None = None

    @property
    def first_token_seconds(self) -> float:
        """Seconds from the photograph to the first generated token."""
        return sum(self.seconds[part] for part in PARTS[:-1])

    @property
    def pruned_seconds(self) -> float:
        """Seconds of what pruning can change: from the features to the first generated token."""
        return sum(self.seconds[part] for part in PARTS[2:-1])

    def all_seconds(self) -> dict[str, float]:
        """The parts and both sums."""
        return {
            **self.seconds,
            "pruning to prefill": self.pruned_seconds,
            "photograph to first token": self.first_token_seconds,
        }


@dataclass
class _Recorder:
    """What one pass left: marks in seconds by name, and tensors."""

    clock: Callable[[], float]
    marks: dict[str, list[float]] = field(default_factory=dict)
    features: Tensor | None = None
    projected: Tensor | None = None

    def mark(self, name: str) -> None:
        self.marks.setdefault(name, []).append(self.clock())

    def seconds(self, pruned: bool) -> dict[str, float]:
        starts, ends = self.marks["decoder"], self.marks["logits"]
        steps = [end - start for start, end in zip(starts, ends, strict=True)]
        at = {name: marks[0] for name, marks in self.marks.items()}
        return {
            "image processing": at["processed"] - at["start"],
            "vision tower": at["tower end"] - at["tower"],
            "pruning": at["pruned"] - at["features"] if pruned else 0.0,
            "projector": at["projected"] - at["pruned"],
            "language-model prefill": steps[0],
            "decoding, per token": fmean(steps[1:]) if steps[1:] else 0.0,
        }


def measure(
    bundle: Bundle, photo: Image, settings: Settings, progress: Callable[[str], None]
) -> tuple[Run, Run]:
    """Asks the model about the photograph with all tokens and with ``keep``, in alternating rounds.

    Args:
        bundle: The model.
        photo: The photograph.
        settings: Checked settings.
        progress: Called with a line that says what comes next.

    Returns:
        The run with all vision tokens, and the one with ``keep``.
    """
    runs: dict[bool, list[Run]] = {False: [], True: []}
    # One short pass of each warms allocators and thread pools; it is not measured.
    progress("Warming up")
    for pruned in runs:
        _pass(bundle, photo, settings, pruned, max_new_tokens=2)
    for index in range(settings.rounds):
        for pruned, collected in runs.items():
            what = f"{settings.keep} vision tokens" if pruned else "all vision tokens"
            progress(f"Generating with {what}, round {index + 1} of {settings.rounds}")
            collected.append(_pass(bundle, photo, settings, pruned, settings.max_new_tokens))
    return _median_run(runs[False]), _median_run(runs[True])


def _median_run(runs: list[Run]) -> Run:
    last = runs[-1]
    last.seconds = {part: median(run.seconds[part] for run in runs) for part in PARTS}
    return last


@torch.inference_mode()
def _pass(
    bundle: Bundle, photo: Image, settings: Settings, pruned: bool, max_new_tokens: int
) -> Run:
    model = bundle.model
    recorder = _Recorder(_clock(model.device))
    recorder.mark("start")
    question = settings.question
    assert question is not None
    text = prompt(bundle.processor, question) if bundle.prompt is None else bundle.prompt(question)
    inputs = bundle.processor(images=photo, text=text, return_tensors="pt")
    inputs = inputs.to(model.device, dtype=model.dtype)
    recorder.mark("processed")
    handle = None
    with _hooks(model, recorder) as hook_pruned:
        try:
            if pruned:
                handle = svdprune_ext.apply(model, keep=settings.keep, **settings.rule)
            hook_pruned()
            output = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
            record = handle.last if handle is not None else None
        finally:
            if handle is not None:
                handle.remove()
    answer = output[0, inputs["input_ids"].shape[1] :]
    text = bundle.processor.tokenizer.decode(answer, skip_special_tokens=True)
    assert recorder.features is not None
    assert recorder.projected is not None
    run = Run(
        recorder.seconds(pruned),
        text.strip(),
        recorder.features[0],
        recorder.projected[0],
        inputs["pixel_values"][0],
    )
    if record is not None:
        run.indices, run.scores = record.indices[0].cpu(), record.scores[0].cpu()
        run.rank = int(record.rank[0])
    return run


def prompt(processor: Any, question: str) -> str:
    """The prompt of a question about one image: by the processor's chat template, if it has one.

    Args:
        processor: A LLaVA processor.
        question: The question.

    Returns:
        Text that holds the image's placeholder once.
    """
    if getattr(processor, "chat_template", None):
        content = [{"type": "image"}, {"type": "text", "text": question}]
        messages = [{"role": "user", "content": content}]
        return str(processor.apply_chat_template(messages, add_generation_prompt=True))
    return f"USER: {processor.image_token}\n{question} ASSISTANT:"


@contextmanager
def _hooks(model: Any, recorder: _Recorder) -> Iterator[Callable[[], None]]:
    """Hooks that mark the parts.

    What it yields must be called once the pruning is in place: hooks run in the order of their
    registration, and the projector's input is wanted before and after the pruning.
    """
    tower, projector = model.model.vision_tower, model.model.multi_modal_projector
    decoder, head = model.model.language_model, model.lm_head

    def note_features(_: Any, args: tuple[Tensor, ...]) -> None:
        recorder.features = args[0]
        recorder.mark("features")

    def note_pruned(_: Any, args: tuple[Tensor, ...]) -> None:
        recorder.projected = args[0]
        recorder.mark("pruned")

    handles = [
        tower.register_forward_pre_hook(lambda *_: recorder.mark("tower")),
        tower.register_forward_hook(lambda *_: recorder.mark("tower end")),
        projector.register_forward_pre_hook(note_features),
        decoder.register_forward_pre_hook(lambda *_: recorder.mark("decoder")),
        head.register_forward_hook(lambda *_: recorder.mark("logits")),
    ]

    def hook_pruned() -> None:
        handles.append(projector.register_forward_pre_hook(note_pruned))
        handles.append(projector.register_forward_hook(lambda *_: recorder.mark("projected")))

    try:
        yield hook_pruned
    finally:
        for handle in handles:
            handle.remove()


def _clock(device: torch.device) -> Callable[[], float]:
    if device.type != "cuda":
        return time.perf_counter

    def synchronised() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return synchronised
