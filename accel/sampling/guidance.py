"""Steering a sample by the difference that a prompt makes.

Sources: Ho & Salimans 2022 (arXiv:2207.12598) for guidance; Lin et al. 2023 (arXiv:2305.08891),
equations 15 and 16, for rescaling; Liu et al. 2022 (arXiv:2206.01714) for several prompts; Chung
et al. 2024 (arXiv:2406.08070) for CFG++; Ahn et al. 2024 (arXiv:2403.17377) for perturbed
attention; Brooks et al. 2022 (arXiv:2211.09800) for two scales. What is left out of a step and
when follows A1111's `skip_early_cond` and `s_min_uncond`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from accel.core import ConfigError
from accel.sampling.parameterise import Denoise, NoiseLevels, denoised

C = TypeVar("C")  # whatever a network takes as its conditioning; nothing here looks inside

# Scaled x [N * B, C, H, W] (the batch once for each condition, in order), timesteps [N * B] on the
# CPU (so that reading one waits for nothing), the N conditions -> raw predictions [N * B, C, H, W].
PredictWith = Callable[[Tensor, Tensor, Sequence[C]], Tensor]


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """How strongly, and when.

    scale: 1 is the prompt alone; then what is not the prompt is not even computed.
    rescale: 0..1, how far the result's deviation is brought back to that of the prompt alone.
    skip_early: share of the calls, from the first, that are made at scale 1 (0..1).
    s_min_uncond: below this sigma every other call is made at scale 1; 0: none.
    every_call: with `s_min_uncond`, every call is, and not every other one.
    pag: how far to go away from a prediction whose self attention sees nothing (0: off).
    gate: share of the calls, from the first, that are guided; later ones are made at scale 1
        (T-GATE, see `gate_call`; 1: none).
    """

    scale: float = 7.0
    rescale: float = 0.0
    skip_early: float = 0.0
    s_min_uncond: float = 0.0
    every_call: bool = False
    pag: float = 0.0
    gate: float = 1.0

    def __post_init__(self) -> None:
        for name in ("rescale", "skip_early", "gate"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} must lie in 0..1, got {getattr(self, name)}")
        for name in ("s_min_uncond", "pag"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name} must be 0 or above, got {getattr(self, name)}")
        if not math.isfinite(self.scale):
            raise ConfigError(f"scale must be a finite number, got {self.scale}")

    def skips(self, sigma: float, call: int, calls: int) -> bool:
        """Whether call number `call` (from 0) of `calls` is made at scale 1."""
        if self.skip_early and call <= self.skip_early * calls:
            return True
        if self.gate < 1 and call >= gate_call(self.gate, calls):
            return True
        return sigma < self.s_min_uncond and (self.every_call or call % 2 == 1)


def gate_call(gate: float, calls: int) -> int:
    """The first of `calls` calls beyond the gate; there is one before it always.

    Source: Zhang et al. 2024 (arXiv:2404.02747): by then cross attention has said what it has to.
    """
    return max(1, round(gate * calls))


@dataclass(frozen=True)
class Prompted(Generic[C]):
    """What one call is steered by.

    positive: conditions with their weights, as `AND` gives them; weights may be negative.
    negative: what is steered away from; None where there is nothing of the kind (scale 1).
    """

    positive: Sequence[tuple[C, float]]
    negative: C | None = None


def edit_weights(scale: float, image_scale: float) -> tuple[float, float]:
    """Weights of (text and picture, picture alone) for an editing network, at scale 1.

    They make n + scale * (both - picture) + image_scale * (picture - n) of the usual sum.
    """
    return scale, image_scale - scale


def guided(
    predict: PredictWith[C],
    scale: float | Guidance,
    conditions: Prompted[C] | Callable[[int], Prompted[C]],  # the same always, or by call from 0
    noise: NoiseLevels,
    kind: str = "eps",  # what the network predicts: see parameterise.PREDICTIONS
    *,
    calls: int = 0,  # of the whole run, see samplers.calls_of; for skip_early and gate
    perturbed: PredictWith[C] | None = None,  # as predict, without self attention; for pag alone
) -> Guided[C]:
    """A denoiser for `run_sampler`: all conditions in one batch of the network, then their sum.

    It counts its calls, so each run needs its own. Raises ConfigError where a setting lacks what it
    needs.
    """
    guidance = scale if isinstance(scale, Guidance) else Guidance(scale=scale)
    if guidance.pag and perturbed is None:
        raise ConfigError("pag needs a network that can do without its self attention")
    if (guidance.skip_early or guidance.gate < 1) and calls < 1:
        name = "skip_early" if guidance.skip_early else "gate"
        raise ConfigError(f"{name} needs the number of calls, got {calls}")
    return Guided(predict, guidance, conditions, noise, kind, calls, perturbed)


class Guided(Generic[C]):
    """See `guided`. `pair` gives the unguided picture too, which the CFG++ samplers need."""

    def __init__(
        self,
        predict: PredictWith[C],
        guidance: Guidance,
        conditions: Prompted[C] | Callable[[int], Prompted[C]],
        noise: NoiseLevels,
        kind: str,
        calls: int,
        perturbed: PredictWith[C] | None,
    ):
        self.predict, self.perturbed = predict, perturbed
        self.guidance, self.conditions, self.noise, self.kind = guidance, conditions, noise, kind
        self.calls, self.call = calls, 0

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        skips = self.guidance.skips(sigma, self.call, self.calls)
        return self._denoise(x, sigma, skips, needs_negative=False)[0]

    def pair(self, x: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
        """(guided, without the prompt), both denoised; nothing is skipped."""
        clean, other = self._denoise(x, sigma, skips=False, needs_negative=True)
        return clean, clean if other is None else other

    def _denoise(
        self, x: Tensor, sigma: float, skips: bool, needs_negative: bool
    ) -> tuple[Tensor, Tensor | None]:
        prompted = self.conditions if isinstance(self.conditions, Prompted) else None
        if prompted is None:
            prompted = self.conditions(self.call)  # type: ignore[operator]
        self.call += 1
        scale = 1.0 if skips else self.guidance.scale
        weights = [weight for _, weight in prompted.positive]
        positive = [condition for condition, _ in prompted.positive]
        # The sum's share of the negative: at 0 it would be computed for nothing.
        counts = needs_negative or (not skips and scale * sum(weights) != 1)
        negative = [prompted.negative] if counts and prompted.negative is not None else []

        scaled, t = self.noise.scaled(x, sigma), self.noise.timestep(sigma)
        predictions = self._run(self.predict, scaled, t, [*negative, *positive])
        base = predictions[0]  # with nothing to go away from, A1111 takes the first prompt
        predictions = predictions[len(negative) :]
        lost: Sequence[Tensor] = ()
        if self.guidance.pag and self.perturbed is not None:
            lost = self._run(self.perturbed, scaled, t, positive)
        sum_ = combined(
            base, predictions, weights, scale, self.guidance.rescale, lost, self.guidance.pag
        )
        clean = denoised(sum_, x, sigma, self.kind)
        other = denoised(base, x, sigma, self.kind) if negative else None
        return clean, other

    def _run(
        self, predict: PredictWith[C], x: Tensor, t: float, conditions: Sequence[C]
    ) -> Sequence[Tensor]:
        count = len(conditions)
        times = torch.full((count * x.shape[0],), t)
        out = predict(x.repeat(count, *[1] * (x.ndim - 1)), times, conditions)
        if out.shape[0] != count * x.shape[0]:
            raise ValueError(
                f"guided: predict must give {count * x.shape[0]} predictions, got {out.shape[0]}"
            )
        return out.chunk(count)


def combined(
    base: Tensor,  # [B, C, H, W] raw prediction to go away from
    predictions: Sequence[Tensor],  # each [B, C, H, W], of one prompt
    weights: Sequence[float],
    scale: float,
    rescale: float = 0.0,
    perturbed: Sequence[Tensor] = (),  # each [B, C, H, W], of one prompt without self attention
    pag: float = 0.0,
) -> Tensor:  # [B, C, H, W]
    """base + scale * the weighted sum of what each prompt changes, and so on: see Guidance."""
    out = base
    for prediction, weight in zip(predictions, weights, strict=True):
        out = out + (scale * weight) * (prediction - base)
    for prediction, lost, weight in zip(predictions, perturbed, weights):
        out = out + (pag * weight) * (prediction - lost)
    if not rescale:
        return out
    alone = predictions[0]
    if len(predictions) > 1:
        alone = combined(base, predictions, weights, 1.0)
    ratio = deviation(alone) / deviation(out)
    return torch.lerp(out, out * ratio, rescale)


def deviation(x: Tensor) -> Tensor:  # [B, C, H, W] -> [B, 1, 1, 1]
    return x.std(dim=tuple(range(1, x.ndim)), keepdim=True)


def pair_of(denoise: Denoise, x: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
    """(guided, without the prompt); equal where the denoiser knows of no prompt."""
    pair: Callable[[Tensor, float], tuple[Tensor, Tensor]] | None = getattr(denoise, "pair", None)
    if pair is not None:
        return pair(x, sigma)
    clean = denoise(x, sigma)
    return clean, clean
