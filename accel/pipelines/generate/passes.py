"""One pass: a canvas from noise to a latent, by the sampler, the network and what steers it."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from accel.core import ConfigError
from accel.nn.reuse import ReusingUnet
from accel.pipelines.generate.canvas import Canvas, Size
from accel.pipelines.generate.controls import ready
from accel.pipelines.generate.draws import Draws
from accel.pipelines.generate.graphs import GraphedRun, graphed_run, graphs_for, why_not
from accel.pipelines.generate.model import Model
from accel.pipelines.generate.network import Known, Masked, Network, Told
from accel.pipelines.generate.options import Options
from accel.pipelines.generate.prompts import Plan
from accel.pipelines.generate.reporter import Reporter
from accel.pipelines.generate.step_cache import StepCache
from accel.sampling.guidance import (
    Guidance,
    Guided,
    Prompted,
    edit_weights,
    gate_call,
    guided,
)
from accel.sampling.plan import plan as plan_steps
from accel.sampling.samplers import SAMPLERS, calls_of, run_sampler
from accel.sampling.schedules import NoiseSchedule

# Samplers of diffusers that scale the first noise by the level alone when spaced to the very end.
BY_LEVEL = ("euler", "euler_a", "heun", "dpm2", "dpm2_a", "lms", "dpmpp_sde")
# Schedulers of diffusers that tell the network whole timesteps at any levels.
ROUNDED = ("dpmpp_2m", "dpmpp_2m_sde", "deis", "unipc")


class Passes:
    """The passes of one run: what layers have made of its prompts is kept from one to the next."""

    def __init__(self, model: Model, options: Options, report: Reporter):
        self.model, self.options, self.report = model, options, report
        self._known: tuple[int, Known] | None = None

    def sample(
        self, source: Draws, canvas: Canvas, plan: Plan, sigmas: Sequence[float]
    ) -> Tensor:  # [1, z, h, w]
        options, report = self.options, self.report
        source.shape = self.latent_shape(canvas)
        if len(sigmas) < 2:  # a strength of 0 leaves the picture as it is
            assert canvas.latent is not None
            return canvas.latent
        first = source.start()
        if canvas.mask is not None and options.mask_content == "latent noise":
            filled = torch.lerp(canvas.latent, first, canvas.mask)  # type: ignore[arg-type]
            canvas = replace(canvas, latent=filled)
        # diffusers paints at full strength into noise alone, and lets networks that are shown the
        # mask see to the rest of the picture themselves.
        paints_as_diffusers = options.follows_diffusers and canvas.mask is not None
        is_bare = paints_as_diffusers and options.strength >= 1
        if paints_as_diffusers and canvas.extra is not None:
            canvas = replace(canvas, mask=None)
        if canvas.latent is None or is_bare:
            x = first * self.first_deviation(sigmas[0])
        else:
            x = canvas.latent + first * sigmas[0]

        report.index = 0
        graphed = self.graphed(canvas, plan, sigmas)
        if graphed is not None:
            return self.ended(graphed.sample(x, source.noise(sigmas), report.step), sigmas)
        denoise: Any = self.denoiser(canvas, plan, sigmas)
        if canvas.mask is not None and canvas.latent is not None:
            held = first if options.follows_diffusers else None
            below = sigmas[0] if is_bare else math.inf
            denoise = Masked(denoise, canvas.latent, canvas.mask, held, below)
        x = run_sampler(
            options.sampler, denoise, x, sigmas,
            noise=source.noise(sigmas), callback=report.step, **self.settings(),
        )  # fmt: skip
        x = self.ended(x, sigmas)
        if canvas.mask is not None and canvas.latent is not None:
            x = torch.where(canvas.mask > 0, x, canvas.latent)
        return x

    def ended(self, x: Tensor, sigmas: Sequence[float]) -> Tensor:
        """A run that stops above 0 leaves the latent as the network sees it at its last level."""
        return x if sigmas[-1] == 0 else self.model.noise.scaled(x, sigmas[-1])

    def latent_shape(self, canvas: Canvas) -> tuple[int, int, int]:
        factor = self.model.factor
        channels = self.model.loaded.model.config.vae.latent_channels
        return channels, canvas.size[1] // factor, canvas.size[0] // factor

    def first_deviation(self, sigma: float) -> float:
        """What the first noise is multiplied by.

        A1111 by the level, as if the picture beneath were black; diffusers, but for some of its
        samplers, so that the sum of picture and noise has the variance seen in training.
        """
        options = self.options
        by_level = options.sampler in BY_LEVEL and not options.schedule.endswith("leading")
        if not options.follows_diffusers or by_level:
            return sigma
        return math.sqrt(sigma * sigma + 1)

    def settings(self) -> dict[str, Any]:
        """The sampler's own settings that were given and that it has."""
        takes = inspect.signature(SAMPLERS[self.options.sampler]).parameters
        if self.options.eta is None:
            return {}
        if "gamma" in takes:  # TCD's name of it; diffusers and A1111 call it eta
            return {"gamma": self.options.eta}
        if "eta" not in takes:
            raise ConfigError(f"{self.options.sampler} puts no noise back, so it takes no eta")
        return {"eta": self.options.eta}

    # ------------------------------------------------------------ what the sampler calls

    def denoiser(self, canvas: Canvas, plan: Plan, sigmas: Sequence[float]) -> Guided[Told]:
        """Each prompt at the step that the report has come to, guided."""
        options, model = self.options, self.model
        noise, calls = self.noise(), calls_of(options.sampler, len(sigmas) - 1)
        guidance = Guidance(
            scale=1.0 if is_editor(model) or model.is_told_guidance else options.cfg,
            rescale=options.cfg_rescale,
            skip_early=options.skip_early,
            s_min_uncond=options.s_min_uncond,
            pag=options.pag,
            gate=options.tgate,
        )
        network, blind = self.networks(canvas.size, [noise.timestep(s) for s in sigmas if s > 0])
        return guided(
            network,
            guidance,
            Conditions(self, canvas, plan, len(sigmas) - 1),
            noise,
            model.loaded.prediction,
            calls=calls,
            perturbed=blind,
        )

    def networks(self, size: Size, timesteps: Sequence[float]) -> tuple[Network, Network | None]:
        """For one pass: the UNet, and where it is asked for the one without self attention."""
        model, options = self.model, self.options
        whole, tight = model.loaded.model, self.is_tight(size)
        if not model.has_weights:
            return Network(whole, model.dtype, one_by_one=tight), None
        known = self.known()
        known.levels.add(timesteps)

        def network(unet: ReusingUnet) -> Network:
            cache = None
            if options.deepcache > 1:
                cache = StepCache(options.deepcache, options.deepcache_branch)
            return Network(whole, model.dtype, unet, known, one_by_one=tight, cache=cache)

        return network(known.unet), network(known.blind) if known.blind else None

    def graphed(self, canvas: Canvas, plan: Plan, sigmas: Sequence[float]) -> GraphedRun | None:
        """The pass as a CUDA graph, where there are such and nothing speaks against it."""
        model, options = self.model, self.options
        graphs = graphs_for(model.device)
        if graphs is None or why_not(model, options, canvas, plan, self.is_tight(canvas.size)):
            return None
        known, key = self.known(), (canvas.size, tuple(sigmas), id(plan))
        if key not in known.graphed:
            steps = plan_steps(options.sampler, sigmas, **self.settings())
            scale = 1.0 if model.is_told_guidance else options.cfg
            known.graphed[key] = graphed_run(
                model, known, plan, canvas.size, steps, scale, self.noise(), graphs
            )
        return known.graphed[key]

    def noise(self) -> NoiseSchedule:
        """The model's levels, told in whole timesteps where diffusers does so."""
        rounds = self.options.follows_diffusers and self.options.sampler in ROUNDED
        return replace(self.model.noise, rounded=True) if rounds else self.model.noise

    def is_tight(self, size: Size) -> bool:
        """Whether memory is so short that prompts go through the network one by one."""
        model, (width, height) = self.model, size
        return model.budget.one_by_one(
            model.loaded.model.config, height // model.factor, width // model.factor, model.dtype
        )

    def known(self) -> Known:
        """Kept from picture to picture, unless weights are changed between them."""
        model, options = self.model, self.options
        if self._known is None or self._known[0] != model.weight_changes:
            known = Known(
                model.loaded.model, model.dtype, merging=options.token_merging,
                pag=options.pag > 0, guidance=options.cfg if model.is_told_guidance else None,
            )  # fmt: skip
            self._known = model.weight_changes, known
        return self._known[1]


class Conditions:
    """What the network is told at each call of one pass."""

    def __init__(self, passes: Passes, canvas: Canvas, plan: Plan, steps: int):
        model, options = passes.model, passes.options
        width, height = canvas.size
        takes_sizes = model.loaded.model.config.size_numbers > 0
        self.sizes = model.sizes(height, width) if takes_sizes else None
        self.negative_sizes = model.sizes(height, width, negative=True) if takes_sizes else None
        self.steers = ready(model, options.controls, canvas, options.resize)
        self.options, self.report, self.plan = options, passes.report, plan
        self.extra, self.steps, self.calls = canvas.extra, steps, calls_of(options.sampler, steps)
        self.blank: Tensor | None = None  # in place of the picture that is edited
        if is_editor(model) and canvas.extra is not None:
            self.blank = torch.zeros_like(canvas.extra)

    def __call__(self, call: int) -> Prompted[Told]:
        options, step = self.options, self.report.index
        steered = tuple(s for s in self.steers if s.control.in_effect(step, self.steps))
        spared = tuple(s for s in steered if s.control.mode != "control")
        gate = gate_phase(options.tgate, call, self.calls)
        positive = [
            (Told(part.at(step), self.sizes, self.extra, steered, gate), part.weight)
            for part in self.plan.parts
        ]
        negative = Told(self.plan.negative.at(step), self.negative_sizes, self.extra, spared, gate)
        if self.blank is None:
            return Prompted(positive, negative)
        both, alone = edit_weights(options.cfg, options.image_cfg)
        positive = [(told, weight * both) for told, weight in positive]
        return Prompted([*positive, (negative, alone)], replace(negative, extra=self.blank))


def is_editor(model: Model) -> bool:
    return model.name.endswith("-edit")


def gate_phase(gate: float, call: int, calls: int) -> str:
    """Told.gate of one call."""
    if gate >= 1:
        return ""
    first = gate_call(gate, calls)
    return "after" if call >= first else "last" if call == first - 1 else ""
