"""What all samplers share: walking down the levels, and the arithmetic of one step.

In sigma, with x = x0 + sigma * noise, every solver of a latent diffusion model is a rule for going
from (x, sigma) to a lower level; variance-preserving x is this x over sqrt(1 + sigma^2).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from accel.sampling.parameterise import Denoise

Callback = Callable[[int, Tensor], None]  # step just taken, its denoised picture; may raise
Noise = Callable[[float, float], Tensor]  # step's levels -> a tensor like x of deviation 1
Step = Callable[[Tensor, Tensor, float, float], Tensor]  # x, denoised x, level, next level -> x


@dataclass(frozen=True)
class Churn:
    """Noise added before a step, which the step takes away again (Karras et al., algorithm 2).

    amount: over the whole run, in steps (their S_churn); each step gets an even share of it.
    low, high: levels at which it is done.
    """

    amount: float = 0.0
    low: float = 0.0
    high: float = math.inf

    def raised(self, sigma: float, steps: int) -> float:
        """The level to go up to before a step."""
        if not self.low <= sigma <= self.high:
            return sigma
        return sigma * (1 + min(self.amount / steps, math.sqrt(2) - 1))


def walk(
    denoise: Denoise,
    x: Tensor,  # [B, C, H, W] at level sigmas[0]
    sigmas: Sequence[float],  # descending, often ending in 0
    step: Step,
    callback: Callback | None,
    *,
    ends_denoised: bool = True,  # a step to 0 gives the denoised picture, whatever the rule
    churn: Churn | None = None,
    noise: Noise | None = None,
) -> Tensor:  # [B, C, H, W] at level sigmas[-1]
    """Go down the levels by `step`, with churn before it where that is asked for.

    Raises ValueError unless the levels go down.
    """
    pairs = steps_of(sigmas)
    for i, (sigma, following) in enumerate(pairs):
        if churn is not None and churn.amount and noise is not None:
            raised = churn.raised(sigma, len(pairs))
            if raised > sigma:
                x = x + noise(raised, sigma) * math.sqrt(raised**2 - sigma**2)
                sigma = raised
        clean = denoise(x, sigma)
        x = clean if ends_denoised and following == 0 else step(x, clean, sigma, following)
        if callback:
            callback(i, clean)
    return x


def steps_of(sigmas: Sequence[float]) -> list[tuple[float, float]]:
    """Pairs of neighbouring levels; raises ValueError unless they go down and stay above 0."""
    pairs = list(pairwise(sigmas))
    if not all(math.inf > a > b >= 0 for a, b in pairs):
        raise ValueError(f"sigmas must go down and end at 0 or above, got {list(sigmas)}")
    return pairs


def blend(clean: Tensor, x: Tensor, share: float) -> Tensor:
    """Where x comes to when its noise shrinks to `share` and the denoised picture stays."""
    return torch.lerp(clean, x, share)


def settled(x: Tensor) -> Tensor:
    """x; where a sampler is run on symbols (accel.sampling.plan), a value of its own.

    For what one step makes and later ones build on without showing it to the network.
    """
    settle: Callable[[], Tensor] | None = getattr(x, "settled", None)
    return x if settle is None else settle()


def slope_of(x: Tensor, clean: Tensor, sigma: float) -> Tensor:
    """dx/dsigma, which is also the predicted noise."""
    return (x - clean) / sigma


def ancestral(sigma: float, following: float, eta: float) -> tuple[float, float]:
    """Levels (down, up): go to `down` without noise, then add noise of deviation `up`.

    Source: Song et al. 2020 (arXiv:2010.02502), equation 16.
    """
    share = following**2 * (sigma**2 - following**2) / sigma**2
    up = min(following, eta * math.sqrt(share))
    return math.sqrt(following**2 - up**2), up


class Line:
    """The denoised picture as a line in log sigma, through the step before and this one."""

    def __init__(self) -> None:
        self.before: Tensor | None = None
        self.length_before = 0.0

    def extend(self, clean: Tensor, length: float) -> Tensor:
        """The line's change over half a step of `length`, which is also remembered."""
        change = torch.zeros_like(clean)
        if self.before is not None:
            change = (clean - self.before) * (length / (2 * self.length_before))
        self.before, self.length_before = clean, length
        return change


def lagrange_integrals(nodes: Sequence[float], begin: float, end: float) -> list[float]:
    """The integral over begin..end of each polynomial that is 1 at its node and 0 at the others.

    Gauss-Legendre with four points is exact up to degree 7; four nodes need degree 3.
    """
    points, weights = np.polynomial.legendre.leggauss(4)
    at = (end - begin) / 2 * points + (end + begin) / 2
    integrals = []
    for j, own in enumerate(nodes):
        others = [node for k, node in enumerate(nodes) if k != j]
        values = np.prod([(at - other) / (own - other) for other in others], axis=0)
        integrals.append(float((weights * values).sum() * (end - begin) / 2))
    return integrals


def log_lagrange_integrals(nodes: Sequence[float], begin: float, end: float) -> list[float]:
    """As above, for polynomials in the logarithm; `end` may be 0."""
    logs = [math.log(node / begin) for node in nodes]
    u = math.log(end / begin) if end > 0 else 0.0  # at 0 its powers are multiplied by 0
    moments = [end - begin]  # integrals of log(s / begin)^k, by parts
    for k in range(1, len(nodes)):
        moments.append(end * u**k - k * moments[-1])
    integrals = []
    for j, own in enumerate(logs):
        others = [log for k, log in enumerate(logs) if k != j]
        factors = np.atleast_1d(np.poly(others))[::-1] / math.prod(own - other for other in others)
        integrals.append(float(sum(f * m for f, m in zip(factors, moments, strict=True))))
    return integrals
