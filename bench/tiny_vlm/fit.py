"""One loop for every stage: until its CPU time is used up."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

_WARM_UP = 0.04  # share of the time over which the learning rate rises


@dataclass
class Budget:
    """CPU time of this process, in seconds; time in which others have the core does not count."""

    seconds: float

    def __post_init__(self) -> None:
        self._start = time.process_time()

    @property
    def used(self) -> float:
        """Share used up so far."""
        return (time.process_time() - self._start) / self.seconds


def fit(
    name: str,
    budget: Budget,
    optimisers: list[torch.optim.Optimizer],
    trained: list[nn.Module],
    next_loss: Callable[[], tuple[Tensor, dict[str, float]]],
    report: Callable[[], str] | None = None,
    reports: int = 6,
) -> None:
    """Trains until the budget is used up; the learning rate rises, then falls linearly to nothing.

    Args:
        name: Of the stage, for the log.
        budget: Its CPU time.
        optimisers: At their peak learning rates.
        trained: Modules whose gradients are clipped together.
        next_loss: Gives the loss of a new batch, and figures for the log.
        report: Describes validation results, for the log.
        reports: How often to call it.
    """
    peaks = [[group["lr"] for group in optimiser.param_groups] for optimiser in optimisers]
    parameters = [p for module in trained for p in module.parameters() if p.requires_grad]
    steps, reported, logged = 0, 0, -1.0
    while (used := budget.used) < 1:
        scale = min(1.0, (used + 1e-3) / _WARM_UP) * (1 - used)
        for optimiser, lrs in zip(optimisers, peaks, strict=True):
            for group, lr in zip(optimiser.param_groups, lrs, strict=True):
                group["lr"] = lr * scale
        loss, figures = next_loss()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        steps += 1
        if used - logged >= 0.02:
            logged = used
            shown = " ".join(f"{key} {value:.3f}" for key, value in figures.items())
            print(f"{name} {used:5.1%} step {steps} loss {loss.item():.3f} {shown}", flush=True)
        if report is not None and used * reports >= reported + 1:
            reported += 1
            print(f"{name} {used:5.1%} {report()}", flush=True)
    if report is not None:
        print(f"{name} done after {steps} steps {report()}", flush=True)
