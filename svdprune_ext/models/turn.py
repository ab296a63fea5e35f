"""One forward pass at a time: what a step notes between its hooks, it notes once for all threads."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from svdprune_ext.models.own import OfOneModel


class Turn(OfOneModel):
    """Which thread's step is under way. Compiled code, which keeps no hooks, does not ask."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def take(self) -> bool:
        """Begins this thread's turn, or goes on with it.

        Returns:
            Whether it begins: whoever began it ends it.

        Raises:
            RuntimeError: It is another thread's.
        """
        if torch.compiler.is_compiling():
            return False
        with self._lock:
            begins = self._thread is None or not self._thread.is_alive()
            if not (begins or self._is_own()):
                raise RuntimeError(
                    "svdprune_ext: a patched model takes one forward pass at a time, and another thread's is "
                    "under way; threads need a lock around their calls"
                )
            self._thread = threading.current_thread()
        return begins

    def is_taken(self) -> bool:
        """Whether it is this thread's, and not refused."""
        return torch.compiler.is_compiling() or self._is_own()

    def end(self) -> None:
        """Ends it, if it is this thread's."""
        if not torch.compiler.is_compiling() and self._is_own():
            self._thread = None

    def during(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """A call that takes it."""

        @functools.wraps(call)
        def within(*args: Any, **kwargs: Any) -> Any:
            begins = self.take()
            try:
                return call(*args, **kwargs)
            finally:
                if begins:
                    self.end()

        return within

    def before_model(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """Takes it for a step of the base model; ahead of all other hooks."""
        self.take()

    def after_model(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Ends it, even where the step failed; behind all other hooks."""
        self.end()

    def _is_own(self) -> bool:
        return self._thread is threading.current_thread()
