"""Muon: momentum whose direction is orthogonalised, for matrices and convolutions.

Everything else (biases, norms, embeddings, the first and last layers) gets AdamW. On `nano` it
needs about half the pictures that AdamW alone does, see README.md.

Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"; the three
coefficients of the Newton-Schulz iteration are theirs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
MOMENTUM = 0.95
ENDS = ("embedding", "conv_in", "conv_out", "input_blocks.0.", "out.2", "quant_conv")


def orthogonalise(
    gradient: Tensor,  # [rows, columns]
    steps: int = 5,
) -> Tensor:  # [rows, columns] singular values pulled to about 1
    a, b, c = COEFFICIENTS
    tall = gradient.shape[0] > gradient.shape[1]
    x = gradient.T if tall else gradient
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        square = x @ x.T
        x = a * x + (b * square + c * (square @ square)) @ x
    return x.T if tall else x


class Muon:
    """One object for both optimisers; `step` takes the schedule's factor (0 to 1)."""

    def __init__(self, model: nn.Module, rate: float, adam_rate: float, decay: float = 0.01):
        self.rate, self.adam_rate, self.decay = rate, adam_rate, decay
        hidden: list[nn.Parameter] = []
        rest: list[nn.Parameter] = []
        for name, p in model.named_parameters():
            is_hidden = p.ndim >= 2 and not any(end in name for end in ENDS)
            (hidden if is_hidden else rest).append(p)
        self.hidden = hidden
        self.momentum = [torch.zeros_like(p) for p in hidden]
        self.adam = torch.optim.AdamW(rest, adam_rate, betas=(0.9, 0.99), weight_decay=0.0)

    def zero_grad(self) -> None:
        for p in self.hidden:
            p.grad = None
        self.adam.zero_grad()

    @torch.no_grad()
    def step(self, factor: float) -> None:
        for group in self.adam.param_groups:
            group["lr"] = self.adam_rate * factor
        self.adam.step()
        rate = self.rate * factor
        for p, momentum in zip(self.hidden, self.momentum):
            if p.grad is None:
                continue
            momentum.lerp_(p.grad, 1 - MOMENTUM)
            direction = p.grad.lerp(momentum, MOMENTUM).flatten(1)  # Nesterov's look ahead
            rows, columns = direction.shape
            update = orthogonalise(direction) * max(1.0, rows / columns) ** 0.5
            p.mul_(1 - rate * self.decay).add_(update.view_as(p), alpha=-rate)

    def state_dict(self) -> dict[str, Any]:
        return {"momentum": self.momentum, "adam": self.adam.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for own, saved in zip(self.momentum, state["momentum"], strict=True):
            own.copy_(saved)
        self.adam.load_state_dict(state["adam"])
