"""One run: from options to latents and pictures, each picture on its own."""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from accel.core import Cancel, ConfigError, Progress, ProgressCallback
from accel.nn.reuse import ReusingUnet
from accel.pipelines.generate.canvas import Canvas, Size, prepare, unit_of
from accel.pipelines.generate.controls import keep, ready
from accel.pipelines.generate.graphs import GraphedRun, graphed_run, graphs_for, why_not
from accel.pipelines.generate.loras import loras_of
from accel.pipelines.generate.model import Model
from accel.pipelines.generate.network import Known, Masked, Network, Told, seamless
from accel.pipelines.generate.options import Options
from accel.pipelines.generate.prompts import Plan, check_length
from accel.pipelines.generate.step_cache import StepCache
from accel.pipelines.generate.upscale import LATENT, enlarged_image, enlarged_latent
from accel.sampling.brownian import BrownianNoise
from accel.sampling.guidance import (
    Guidance,
    Guided,
    Prompted,
    edit_weights,
    gate_call,
    guided,
)
from accel.sampling.names import schedule
from accel.sampling.noise import BatchNoise
from accel.sampling.plan import plan as plan_steps
from accel.sampling.samplers import BROWNIAN, SAMPLERS, calls_of, run_sampler
from accel.sampling.schedules import NoiseSchedule

Callback = Callable[[int, Tensor], None]
MOST_STRENGTH = 0.999  # A1111: a strength of 1 still begins at the schedule's first level
# Samplers of diffusers that scale the first noise by the level alone when spaced to the very end.
BY_LEVEL = ("euler", "euler_a", "heun", "dpm2", "dpm2_a", "lms", "dpmpp_sde")
# Schedulers of diffusers that tell the network whole timesteps at any levels.
ROUNDED = ("dpmpp_2m", "dpmpp_2m_sde", "deis", "unipc")


@dataclass
class Made:
    """One finished picture: its seeds, latent [1, z, h, w], and image [1, 3, H, W] in -1..1."""

    seed: int
    variation_seed: int | None
    latent: Tensor
    image: Tensor
    first_size: Size  # of the first pass


def run(model: Model, prompt: str, options: Options, **rest: Any) -> list[Made]:
    return list(runs(model, prompt, options, **rest))


@torch.inference_mode()
def runs(
    model: Model,
    prompt: str,
    options: Options,
    *,
    init: Any = None,
    mask: Any = None,
    noise: Any = None,
    callback: Callback | None = None,
    decode: bool = True,
    progress: ProgressCallback | None = None,
    cancel: Cancel | None = None,
) -> Generator[Made, None, None]:
    """Yield each picture as it is done."""
    check_length(prompt)
    if (options.tiling or options.pag) and not model.has_weights:
        raise ConfigError("tiling and pag need the networks themselves, not exported ones")
    check_approximations(model, options)
    with model.lock:
        networks = keep(model, options.controls)
        model.use_loras(loras_of(prompt, options, model))
        maker = Maker(model, prompt, options, Reporter(progress, cancel, callback), noise)
        canvas = None
        for index in range(options.count):
            with seamless(model.loaded.model, *networks, wanted=options.tiling):
                if canvas is None or several(init):
                    canvas = prepare(model, options, one_of(init, index), one_of(mask, index))
                    maker.expect(canvas)
                made = maker.make(index, canvas, decode)
            yield made


class Maker:
    """What all pictures of a run share: the plan of prompts, the levels, the reporter."""

    def __init__(
        self, model: Model, prompt: str, options: Options, report: Reporter, draws: Any = None
    ):
        self.model, self.options, self.report, self.draws = model, options, report, draws
        self._known: tuple[int, Known] | None = None
        steps = options.steps
        self.plan = self._plan(prompt, steps, None)
        self.sigmas = self._levels(steps)
        if options.tgate < 1 and len(self.plan.parts) > 1:
            raise ConfigError(f"tgate takes one prompt, got {len(self.plan.parts)} joined by AND")
        self.hires_plan, self.hires_sigmas = self.plan, self.sigmas
        if options.hires_scale > 1:
            second = options.hires_steps or steps
            self.hires_plan = self._plan(prompt, second, steps)
            self.hires_sigmas = later(self._levels(second), second, options.hires_strength, options)

    def _plan(self, prompt: str, steps: int, first_pass_steps: int | None) -> Plan:
        o = self.options
        return self.model.text.plan(
            prompt, o.negative, steps,
            clip_skip=o.clip_skip, style=o.emphasis, first_pass_steps=first_pass_steps,
        )  # fmt: skip

    def _levels(self, steps: int) -> list[float]:
        sampler = None if self.options.follows_diffusers else self.options.sampler
        return schedule(self.options.schedule, steps, self.model.noise, sampler=sampler)

    def levels(self, canvas: Canvas) -> list[float]:
        if canvas.latent is None:
            return self.sigmas
        return later(self.sigmas, self.options.steps, self.options.strength, self.options)

    def expect(self, canvas: Canvas) -> None:
        """Tell the reporter how many steps there will be, once the first canvas is known."""
        second = len(self.hires_sigmas) - 1 if self.options.hires_scale > 1 else 0
        a_picture = len(self.levels(canvas)) - 1 + second
        self.report.total = a_picture * self.options.count

    def make(self, index: int, canvas: Canvas, decode: bool) -> Made:
        model, options = self.model, self.options
        seeds = seeds_of(options, index)
        source = Draws(model, options, seeds, index, self.draws)
        latent = self.sample(source, canvas, self.plan, self.levels(canvas))
        if options.hires_scale > 1:
            larger = self.enlarge(latent, canvas)
            self.report.index = 0
            source = Draws(model, options, seeds, index, None)
            latent = self.sample(source, larger, self.hires_plan, self.hires_sigmas)
        image = latent
        if decode:
            image = model.decode(latent)
            if canvas.finish is not None:
                image = canvas.finish(image)
        return Made(*seeds, latent, image, canvas.size)

    def enlarge(self, latent: Tensor, canvas: Canvas) -> Canvas:
        """The second pass's beginning: the first's result, enlarged as latent or as picture."""
        options, unit = self.options, unit_of(self.model)
        width, height = (int(s * options.hires_scale) // unit * unit for s in canvas.size)
        if options.hires_upscaler in LATENT:
            factor = self.model.factor
            size = (width // factor, height // factor)
            larger = enlarged_latent(latent, size, options.hires_upscaler)
        else:
            image = self.model.decode(latent)
            larger = self.model.encode(
                enlarged_image(image, (width, height), options.hires_upscaler)
            ).float()
        return replace(
            canvas, size=(width, height), latent=larger, mask=None, finish=None, box=None
        )

    def sample(
        self, source: Draws, canvas: Canvas, plan: Plan, sigmas: Sequence[float]
    ) -> Tensor:  # [1, z, h, w]
        options, factor = self.options, self.model.factor
        channels = self.model.loaded.model.config.vae.latent_channels
        source.shape = (channels, canvas.size[1] // factor, canvas.size[0] // factor)
        if len(sigmas) < 2:  # a strength of 0 leaves the picture as it is
            assert canvas.latent is not None
            return canvas.latent
        start = source.start()
        if canvas.mask is not None and options.mask_content == "latent noise":
            filled = torch.lerp(canvas.latent, start, canvas.mask)  # type: ignore[arg-type]
            canvas = replace(canvas, latent=filled)
        # diffusers paints at full strength into noise alone, and lets networks that are shown the
        # mask see to the rest of the picture themselves.
        as_diffusers = options.follows_diffusers and canvas.mask is not None
        bare = as_diffusers and options.strength >= 1
        if as_diffusers and canvas.extra is not None:
            canvas = replace(canvas, mask=None)
        if canvas.latent is None or bare:
            x = start * self.first_deviation(sigmas[0])
        else:
            x = canvas.latent + start * sigmas[0]
        self.report.index = 0
        graphed = self.graphed(canvas, plan, sigmas)
        if graphed is not None:
            return graphed.sample(x, source.noise(sigmas), self.report.step)
        denoise: Any = self.denoiser(canvas, plan, sigmas)
        if canvas.mask is not None and canvas.latent is not None:
            held = start if options.follows_diffusers else None
            below = sigmas[0] if bare else math.inf
            denoise = Masked(denoise, canvas.latent, canvas.mask, held, below)
        x = run_sampler(
            options.sampler, denoise, x, sigmas,
            noise=source.noise(sigmas), callback=self.report.step, **self.settings(),
        )  # fmt: skip
        if canvas.mask is not None and canvas.latent is not None:
            x = torch.where(canvas.mask > 0, x, canvas.latent)
        return x

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

    def denoiser(self, canvas: Canvas, plan: Plan, sigmas: Sequence[float]) -> Guided[Told]:
        """What the sampler calls: each prompt at the step that the report has come to."""
        model, options, report = self.model, self.options, self.report
        width, height = canvas.size
        takes_sizes = model.loaded.model.config.size_numbers > 0
        sizes = model.sizes(height, width) if takes_sizes else None
        negative_sizes = model.sizes(height, width, negative=True) if takes_sizes else None
        edits = model.name.endswith("-edit")
        steers = ready(model, options.controls, canvas, options.resize)
        steps = len(sigmas) - 1
        calls = calls_of(options.sampler, steps)
        blank = torch.zeros_like(canvas.extra) if edits and canvas.extra is not None else None

        def prompted(call: int) -> Prompted[Told]:
            step = report.index
            steered = tuple(s for s in steers if s.control.in_effect(step, steps))
            spared = tuple(s for s in steered if s.control.mode != "control")
            gate = gate_phase(options.tgate, call, calls)
            positive = [
                (Told(part.at(step), sizes, canvas.extra, steered, gate), part.weight)
                for part in plan.parts
            ]
            negative = Told(plan.negative.at(step), negative_sizes, canvas.extra, spared, gate)
            if blank is None:
                return Prompted(positive, negative)
            both, alone = edit_weights(options.cfg, options.image_cfg)
            positive = [(told, weight * both) for told, weight in positive]
            return Prompted([*positive, (negative, alone)], replace(negative, extra=blank))

        guidance = Guidance(
            scale=1.0 if edits or model.is_told_guidance else options.cfg,
            rescale=options.cfg_rescale,
            skip_early=options.skip_early,
            s_min_uncond=options.s_min_uncond,
            pag=options.pag,
            gate=options.tgate,
        )
        noise = self.noise()
        network, blind = self.networks(canvas.size, [noise.timestep(s) for s in sigmas if s > 0])
        return guided(
            network,
            guidance,
            prompted,
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


class Draws:
    """The noise of one picture: its seed's, or what the caller gave, in the order of use."""

    def __init__(
        self,
        model: Model,
        options: Options,
        seeds: tuple[int, int | None],
        index: int,
        given: Any,
    ):
        self.model, self.options, self.seeds = model, options, seeds
        self.shape: tuple[int, int, int] = (0, 0, 0)
        draws = [given] if isinstance(given, Tensor) else list(given or ())
        self.given = [draw[index : index + 1] if draw.ndim == 4 else draw[None] for draw in draws]
        self._stream: BatchNoise | None = None

    def stream(self) -> BatchNoise:
        if self._stream is None:
            self._stream = BatchNoise(
                [self.seeds[0]], self.shape, self.options.noise_source, self.model.device
            )
        return self._stream

    def start(self) -> Tensor:  # [1, z, h, w]
        if self.given:
            return self._next()
        variation = self.seeds[1]
        variations = None if variation is None else [variation]
        return self.stream().start(variations, self.options.variation_strength)

    def noise(self, sigmas: Sequence[float]) -> Callable[[float, float], Tensor]:
        if self.given:
            return lambda sigma, following: self._next()
        if self.options.sampler in BROWNIAN:
            return BrownianNoise([self.seeds[0]], self.shape, self.model.device)
        return self.stream()

    def _next(self) -> Tensor:
        if not self.given:
            raise ConfigError("noise: must hold a draw for every step that puts noise back")
        draw = self.given.pop(0)
        if tuple(draw.shape) != (1, *self.shape):
            raise ConfigError(f"noise: must be {(1, *self.shape)} a picture, got {draw.shape}")
        return draw.to(self.model.device, torch.float32)


def gate_phase(gate: float, call: int, calls: int) -> str:
    """Told.gate of one call."""
    if gate >= 1:
        return ""
    first = gate_call(gate, calls)
    return "after" if call >= first else "last" if call == first - 1 else ""


def check_approximations(model: Model, options: Options) -> None:
    """Raise ConfigError for those that cannot be had together, or of this model."""
    if not options.approximates:
        return
    if not model.has_weights:
        raise ConfigError(
            "deepcache, tgate and token_merging need the networks themselves, not exported ones"
        )
    most = len(model.loaded.model.unet.input_blocks) - 1
    if options.deepcache > 1 and options.deepcache_branch > most:
        raise ConfigError(
            f"deepcache_branch must lie in 0..{most} for {model.name},"
            f" got {options.deepcache_branch}"
        )
    if options.tgate < 1:
        for what, is_so in (
            ("pag", options.pag > 0),
            ("an editing model", model.name.endswith("-edit")),
            (options.sampler, options.sampler.endswith("_cfg_pp")),
        ):
            if is_so:
                raise ConfigError(f"tgate ends guidance, so it cannot go with {what}")


def later(sigmas: Sequence[float], steps: int, strength: float, options: Options) -> list[float]:
    """The levels from which a picture is repainted.

    A1111 makes int(strength * steps) steps and one more; diffusers just those.
    """
    count = int(min(strength, MOST_STRENGTH) * steps) + 1
    if options.follows_diffusers:
        count = min(int(steps * strength), steps)
    return list(sigmas[max(len(sigmas) - 1 - count, 0) :])


def seeds_of(options: Options, index: int) -> tuple[int, int | None]:
    """Seed and variation seed of a picture: the second is counted up where it has an effect."""
    variation = options.variation_seed
    if variation is not None and options.variation_strength:
        return options.seed, (variation + index) % (1 << 64)
    return (options.seed + index) % (1 << 64), None


def several(source: Any) -> bool:
    return isinstance(source, (list, tuple)) or (
        isinstance(source, Tensor) and source.ndim == 4 and len(source) > 1
    )


def one_of(source: Any, index: int) -> Any:
    """The picture of a list or batch that belongs to a picture of the run, or the one for all."""
    if not several(source):
        return source
    index %= len(source)
    return source[index : index + 1] if isinstance(source, Tensor) else source[index]


class Reporter:
    """Tells progress after every step, and stops there when asked to."""

    def __init__(
        self,
        progress: ProgressCallback | None,
        cancel: Cancel | None,
        callback: Callback | None,
    ):
        self.progress, self.cancel, self.callback = progress, cancel, callback
        self.done, self.total, self.began = 0, 0, time.perf_counter()
        self.index = 0  # the step that is being taken, from 0

    def step(self, index: int, clean: Tensor) -> None:
        self.done += 1
        self.index = index + 1
        if self.callback:
            self.callback(index, clean)
        if self.progress:
            rate = self.done / max(time.perf_counter() - self.began, 1e-9)
            self.progress(Progress(stage="sample", done=self.done, total=self.total, rate=rate))
        if self.cancel:
            self.cancel.check()
