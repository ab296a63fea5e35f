"""What a method is: a rule that says which vision tokens of an image are kept."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_type_hints

import torch
from torch import Tensor

from svdprune_ext._register import saved_as
from svdprune_ext.methods.options import Range, is_int

# Where the attention comes from that a method needs, or that it may be given:
# "cls"      from [CLS] to each token, at the vision layer that gives the features, mean over heads
# "received" the same; where the vision tower has no [CLS], what each token receives of all, mean over them
# "decoder"  from the text to each token, at a layer of the language model
Attention = Literal["cls", "received", "decoder"]

_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@saved_as("svdprune_ext.methods.Selected")
class Selected(NamedTuple):
    """Which tokens a method keeps.

    Attributes:
        indices: Their positions, ascending, int64 [B, keep].
        tokens: What stands for them [B, keep, D], in the features' dtype, where the method merges; None where
            they are the features' own rows.
        scores: Score of every token [B, N], where the method keeps the highest; None where a token's worth
            depends on the others kept.
    """

    indices: Tensor
    tokens: Tensor | None = None
    scores: Tensor | None = None


@dataclass(frozen=True)
class Method:
    """One method; ``svdprune_ext.methods.get`` returns it.

    Attributes:
        name: Its name in ``get`` and ``apply``.
        paper: Where it was published.
        rule: The selection itself, called by ``select``. Its keyword-only arguments are the method's options,
            annotated with their ranges (``options.py``).
        attention: What attention it needs: "cls", "received" or "decoder", see above; None if it needs none.
        merges: Whether it changes the kept features.
    """

    name: str
    paper: str
    rule: Callable[..., Selected]
    attention: Attention | None = None
    merges: bool = False

    @property
    def needs_cls(self) -> bool:
        """Whether it needs the attention of a vision tower's [CLS] token."""
        return self.attention in ("cls", "received")

    @functools.cached_property
    def options(self) -> dict[str, Any]:
        """Its options and their defaults."""
        parameters = inspect.signature(self.rule).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}

    @functools.cached_property
    def _ranges(self) -> dict[str, Range]:
        hints = get_type_hints(self.rule, include_extras=True)
        return {name: hints[name].__metadata__[0] for name in self.options}

    def check_options(self, options: dict[str, Any]) -> None:
        """Refuses an option that the method does not have, and a value out of its range.

        Raises:
            ValueError: There is one.
        """
        for name, value in options.items():
            if name not in self.options:
                known = f"one of {', '.join(self.options)}" if self.options else "left out"
                raise ValueError(f"{self.name}: option must be {known}, got {name}")
            expected, holds = self._ranges[name]
            self._must(holds(value), name, expected, repr(value))

    def select(
        self, features: Tensor, keep: int, *, attention: Tensor | None = None, **options: Any
    ) -> Selected:
        """Chooses ``keep`` tokens of each image.

        Works in float64 for float64 features, in float32 for all others, whatever autocast says. Equal
        scores: the lower index wins; the scores of equal tokens are equal up to rounding. Nothing waits
        for the device, but for "ridge" and "qdeim", whose eigendecompositions do on CUDA.

        Args:
            features: Vision tokens [B, N, D] with N, D >= 1; float64, float32, float16 or bfloat16.
            keep: Number of tokens to keep, in [0, N].
            attention: What each token is given [B, N], not negative, mean over heads. Required where
                ``self.attention`` is not None.
            options: The method's own; see ``self.options``.

        Returns:
            Indices, tokens where the method merges (differentiable), scores where it has them.

        Raises:
            ValueError: An argument is out of its range, or features or attention hold NaN or Inf (CPU).
        """
        self.check_options(options)
        self._check(features, keep, attention)
        with (
            torch.set_grad_enabled(torch.is_grad_enabled() and self.merges),
            torch.autocast(features.device.type, enabled=False),
        ):
            return self.rule(features, keep, attention, **options)

    def _check(self, features: Tensor, keep: int, attention: Tensor | None) -> None:
        must = self._must
        right = features.dim() == 3 and min(features.shape[1:]) >= 1
        shape = list(features.shape)
        must(right, "features", "[B, N, D] with N, D >= 1", f"shape {shape}")
        dtypes = "float64, float32, float16 or bfloat16"
        must(features.dtype in _DTYPES, "features", dtypes, features.dtype)
        tokens = features.shape[1]
        right = is_int(keep, least=0) and keep <= tokens
        must(right, "keep", f"an int in [0, N] = [0, {tokens}]", repr(keep))
        _check_finite(must, "features", features)
        if attention is None:
            needed = f"a Tensor [B, N] ({self.attention} attention)"
            must(self.attention is None, "attention", needed, None)
            return
        expected = f"[B, N] = {shape[:2]}"
        right = list(attention.shape) == shape[:2]
        must(right, "attention", expected, f"shape {list(attention.shape)}")
        must(attention.dtype in _DTYPES, "attention", dtypes, attention.dtype)
        right = attention.device == features.device
        must(right, "attention", f"on {features.device} as the features", attention.device)
        _check_finite(must, "attention", attention)

    def _must(self, right: bool, name: str, expected: str, got: object) -> None:
        if not right:
            raise ValueError(f"{self.name}: {name} must be {expected}, got {got}")


def _check_finite(must: Callable[..., None], name: str, values: Tensor) -> None:
    # Elsewhere than on the CPU the host would have to wait for the answer.
    if values.device.type == "cpu" and not torch.compiler.is_compiling():
        must(bool(values.isfinite().all()), name, "finite", "NaN or Inf")
