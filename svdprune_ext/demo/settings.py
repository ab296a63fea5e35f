"""What the demonstration is asked for, checked before anything is built."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

PHOTO_QUESTION = "What is the person in this photograph wearing?"
KEPT_OF_PHOTO, KEPT_OF_PICTURE = 32, 16  # by default; of 576 vision tokens and of 144
VARIANCE = 0.9  # by default, with select "topk"
SELECTS = ("topk", "pivoted")
DTYPES = ("auto", "float32", "bfloat16", "float16")


class SettingsError(ValueError):
    """An option is wrong; the message begins with its name."""


def check_folder(out: Path, option: str = "--out") -> None:
    """Refuses a folder that results cannot be written to; it need not be there yet.

    It is made and written to, and what was made is removed again.

    Args:
        out: The folder.
        option: What the user calls it.

    Raises:
        SettingsError: It cannot be.
    """
    made = [folder for folder in (out, *out.parents) if not os.path.lexists(folder)]
    try:
        out.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise SettingsError(
            f"{option}: must be a folder to write to, or one to be made, got {out} ({error})"
        ) from error
    finally:
        for folder in made:  # the innermost first
            with suppress(OSError):
                folder.rmdir()


@dataclass(frozen=True)
class Settings:
    """Options of the demonstration.

    Attributes:
        photo: Any image file; None takes a generated picture, or with ``model`` the astronaut photograph
            that scikit-image ships.
        keep: Vision tokens to keep.
        variance: Share of the energy that the leading directions hold, in (0, 1]; None takes 0.9. Select
            "pivoted" has no such directions.
        question: What the model is asked; None takes a generated picture's own question.
        model: Folder or hub id of a LLaVA checkpoint; None takes the package's tiny VLM for a generated
            picture, and builds a model with random weights for a photograph.
        out: Folder for demo.png and demo.json.
        max_new_tokens: Tokens to generate, at least 2: the first comes from the prefill.
        seed: Seed of the random weights; None takes 0. Other weights have none.
        dtype: "auto" (the checkpoint's own; float32 for random weights), "float32", "bfloat16" or
            "float16".
        rounds: How often each of the two runs is measured; medians are shown.
        picture: Number of the generated picture in its split; None takes 0.
        select: Rule of selection, "topk" or "pivoted", as in ``svdprune_ext.prune``.
    """

    photo: Path | None = None
    keep: int = KEPT_OF_PHOTO
    variance: float | None = None
    question: str | None = None
    model: str | None = None
    out: Path = Path("demo-out")
    max_new_tokens: int = 16
    seed: int | None = None
    dtype: str = "auto"
    rounds: int = 3
    picture: int | None = None
    select: str = "topk"

    @property
    def generated(self) -> bool:
        """Whether the tiny VLM is asked about a generated picture."""
        return self.photo is None and self.model is None

    @property
    def pivoted(self) -> bool:
        """Whether the rule is "pivoted"."""
        return self.select == "pivoted"

    @property
    def energy_asked(self) -> float:
        """Share of the energy that the leading directions of "topk" hold."""
        return VARIANCE if self.variance is None else self.variance

    @property
    def rule(self) -> dict[str, Any]:
        """What ``apply`` is told beside ``keep``."""
        return {"select": self.select} if self.pivoted else {"variance": self.energy_asked}

    def check(self) -> None:
        """Refuses what no model could serve.

        Raises:
            SettingsError: An option is out of its range, or the photograph cannot be there.
        """
        if self.photo is not None and not self.photo.is_file():
            raise SettingsError(f"PHOTO: no such file: {self.photo}")
        if self.keep < 1:
            raise SettingsError(f"--keep: must be at least 1, got {self.keep}")
        if self.select not in SELECTS:
            known = " or ".join(SELECTS)
            raise SettingsError(f"--select: must be {known}, got {self.select!r}")
        if self.pivoted and self.variance is not None:
            raise SettingsError(
                "--variance: must be left out with --select pivoted, which needs no leading "
                f"directions, got {self.variance}"
            )
        if not 0 < self.energy_asked <= 1:
            raise SettingsError(f"--variance: must be in (0, 1], got {self.variance}")
        if self.max_new_tokens < 2:
            raise SettingsError(f"--max-new-tokens: must be at least 2, got {self.max_new_tokens}")
        if self.rounds < 1:
            raise SettingsError(f"--rounds: must be at least 1, got {self.rounds}")
        if self.picture is not None:
            if not self.generated:
                raise SettingsError(
                    "--picture: must be left out with a photograph or --model, which no picture is "
                    f"generated for, got {self.picture}"
                )
            if self.picture < 0:
                raise SettingsError(f"--picture: must be at least 0, got {self.picture}")
        if self.seed is not None and (self.generated or self.model is not None):
            raise SettingsError(
                "--seed: must be left out but for a photograph without --model, where the weights are "
                f"random, got {self.seed}"
            )
        if self.seed is not None and not 0 <= self.seed < 2**64:
            raise SettingsError(f"--seed: must be in [0, 2^64), got {self.seed}")
        if self.dtype not in DTYPES:
            raise SettingsError(f"--dtype: must be one of {', '.join(DTYPES)}, got {self.dtype!r}")
        check_folder(self.out)

    def check_keep(self, num_tokens: int) -> None:
        """Refuses to keep more tokens than the model has for an image.

        Args:
            num_tokens: Vision tokens of an image.

        Raises:
            SettingsError: ``keep`` is larger.
        """
        if self.keep > num_tokens:
            raise SettingsError(
                f"--keep: must be in [1, {num_tokens}], the model's vision tokens for an image, "
                f"got {self.keep}"
            )

    def check_question(self, placeholder: str) -> None:
        """Refuses a question that asks for another image.

        Args:
            placeholder: What stands for an image in the model's prompts.

        Raises:
            SettingsError: The question holds it.
        """
        if self.question is not None and placeholder in self.question:
            raise SettingsError(
                f"--question: must be without {placeholder}, which stands for the image, got "
                f"{self.question!r}"
            )
