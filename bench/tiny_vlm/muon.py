"""The optimiser: Muon for the matrices inside the layers, AdamW for the rest.

Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/) replaces a matrix's momentum by the
nearest orthogonal matrix, so that rare directions learn as fast as common ones. torch's own computes in
bfloat16, which is slow on many CPUs; this one stays in float32.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_QUINTIC = (
    3.4445,
    -4.7750,
    2.0315,
)  # of the post above: five steps bring singular values near 1


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum and decoupled weight decay."""

    def __init__(self, parameters: list[nn.Parameter], lr: float, decay: float) -> None:
        super().__init__(parameters, {"lr": lr, "decay": decay, "momentum": 0.95})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Takes one step."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                momentum = state.setdefault("momentum", torch.zeros_like(parameter))
                momentum.lerp_(parameter.grad, 1 - group["momentum"])
                update = orthogonalise(parameter.grad.lerp(momentum, group["momentum"]))
                parameter.mul_(1 - group["lr"] * group["decay"])
                # The same root mean square for every shape.
                parameter.add_(update, alpha=-group["lr"] * 0.2 * max(parameter.shape) ** 0.5)


def orthogonalise(matrix: Tensor) -> Tensor:
    """Brings the singular values of a matrix near 1 by a Newton-Schulz iteration."""
    a, b, c = _QUINTIC
    x = matrix / (matrix.norm() + 1e-7)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    for _ in range(5):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x


def optimisers(
    parts: list[nn.Module], inner: list[nn.Module], lr: float
) -> list[torch.optim.Optimizer]:
    """Divides parameters between Muon and AdamW.

    Args:
        parts: Modules to train.
        inner: Modules whose matrices go to Muon; parts of ``parts``.
        lr: AdamW's learning rate, and Muon's, whose updates have the size of AdamW's.

    Returns:
        Both optimisers.
    """
    matrices = [
        p for module in inner for p in module.parameters() if p.dim() == 2 and p.requires_grad
    ]
    taken = {id(p) for p in matrices}
    rest = [
        p for module in parts for p in module.parameters() if id(p) not in taken and p.requires_grad
    ]
    return [
        Muon(matrices, lr=lr, decay=0.05),
        torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.98), weight_decay=0.0),
    ]
