"""One record for each finished cell, in a file that an interrupted evaluation goes on from."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import svdprune_ext
from svdprune_ext.evaluation.answering import Answered
from svdprune_ext.evaluation.cells import Cell
from svdprune_ext.evaluation.exam import Exam
from svdprune_ext.tiny_vlm.questions import KINDS


class Records:
    """The records of a file, by their key; one JSON line each.

    A line that is not whole, as a process killed while writing leaves it, does not count.
    """

    def __init__(self, path: Path) -> None:
        """Reads the file, if it is there."""
        self._path = path
        self._by_key: dict[str, dict[str, Any]] = {}
        if not path.is_file():
            return
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                record = json.loads(line)
                self._by_key[_text(record["key"])] = record
            except (json.JSONDecodeError, KeyError, TypeError):
                continue

    def __len__(self) -> int:
        return len(self._by_key)

    def find(self, key: Mapping[str, Any]) -> dict[str, Any] | None:
        """The record of a key, or None."""
        return self._by_key.get(_text(key))

    def add(self, key: Mapping[str, Any], result: Mapping[str, Any]) -> None:
        """Appends a record; it is on the disk on return."""
        record = {"key": dict(key), **result}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        ends_whole = True
        if self._path.is_file() and self._path.stat().st_size:
            with self._path.open("rb") as file:
                file.seek(-1, os.SEEK_END)
                ends_whole = file.read(1) == b"\n"
        with self._path.open("a", encoding="utf-8") as file:
            file.write(("" if ends_whole else "\n") + json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._by_key[_text(key)] = record


def surroundings(model: Any, exam: Exam) -> dict[str, Any]:
    """What beside the cell determines its answers: model, questions, versions, arithmetic."""
    import transformers

    return {
        "model": model_digest(model),
        "exam": exam.digest,
        "split": exam.split,
        "images": len(exam.pixels),
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": model.device.type,
        "svdprune_ext": svdprune_ext.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def key_of(cell: Cell, around: Mapping[str, Any]) -> dict[str, Any]:
    """The key of a cell's record."""
    return {"cell": cell.key(), **around}


def model_digest(model: Any) -> str:
    """SHA-256 of a model's configuration and weights."""
    config = model.config.to_dict()
    config.pop("_name_or_path", None)  # the same model from another folder is the same model
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def right_by_kind(exam: Exam, answered: Answered) -> dict[str, str]:
    """For each kind, a character for each image: 1 for a right answer, 0 for a wrong, - for none asked."""
    marks = {kind: ["-"] * len(exam.pixels) for kind in KINDS}
    for (number, question), given in zip(exam.asked, answered.given, strict=True):
        marks[question.kind][number] = "1" if given == question.answer else "0"
    return {kind: "".join(line) for kind, line in marks.items()}


def _text(key: Mapping[str, Any]) -> str:
    return json.dumps(key, sort_keys=True)
