"""One run: from options to latents and pictures, each picture on its own."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from accel.core import Cancel, ConfigError, Progress, ProgressCallback
from accel.pipelines.generate.loras import loras_of
from accel.pipelines.generate.model import Model
from accel.pipelines.generate.network import Network, Told
from accel.pipelines.generate.options import Options
from accel.pipelines.generate.prompts import Plan
from accel.sampling.guidance import Guidance, Guided, Prompted, guided
from accel.sampling.noise import BatchNoise
from accel.sampling.samplers import run_sampler
from accel.sampling.schedules import schedule

Callback = Callable[[int, Tensor], None]
MOST_STRENGTH = 0.999  # A1111: a strength of 1 still begins at the schedule's first level
# Samplers of diffusers that scale the first noise by the level alone when spaced to the very end.
BY_LEVEL = ("euler", "euler_a", "heun", "dpm2", "dpm2_a", "lms")


@dataclass
class Made:
    """One finished picture: its seeds, latent [1, z, h, w], and image [1, 3, H, W] in -1..1."""

    seed: int
    variation_seed: int | None
    latent: Tensor
    image: Tensor


def run(
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
) -> list[Made]:
    return list(
        runs(
            model, prompt, options, init=init, mask=mask, noise=noise, callback=callback,
            decode=decode, progress=progress, cancel=cancel,
        )
    )  # fmt: skip


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
    height, width = size_of(model, options)
    with model.lock:
        loras = loras_of(prompt, options, model)
        model.use_loras(loras)
        plan = model.text.plan(
            prompt, options.negative, options.steps,
            clip_skip=options.clip_skip, style=options.emphasis,
        )  # fmt: skip
        sigmas = schedule(options.schedule, model.noise, options.steps)
        report = Reporter(options.count * (len(sigmas) - 1), progress, cancel, callback)
        for index in range(options.count):
            report.index = 0
            latent = one_latent(model, options, plan, sigmas, index, (height, width), report)
            image = model.decode(latent) if decode else latent
            yield Made(*seeds_of(options, index), latent, image)


def one_latent(
    model: Model,
    options: Options,
    plan: Plan,
    sigmas: Sequence[float],
    index: int,
    size: tuple[int, int],  # height, width
    report: Reporter,
) -> Tensor:  # [1, z, h, w]
    seed, variation = seeds_of(options, index)
    factor = model.factor
    shape = (model.loaded.model.config.vae.latent_channels, size[0] // factor, size[1] // factor)
    source = BatchNoise([seed], shape, options.noise_source, model.device)
    start = source.start(None if variation is None else [variation], options.variation_strength)
    x = start * first_deviation(sigmas[0], options)
    denoise = denoiser(model, options, plan, size, report)
    return run_sampler(options.sampler, denoise, x, sigmas, noise=source, callback=report.step)


def denoiser(
    model: Model, options: Options, plan: Plan, size: tuple[int, int], report: Reporter
) -> Guided[Told]:
    """What the sampler calls: each prompt at the step that the report has come to."""
    takes_sizes = model.loaded.model.config.size_numbers > 0
    sizes = model.sizes(*size) if takes_sizes else None
    negative_sizes = model.sizes(*size, negative=True) if takes_sizes else None

    def prompted(call: int) -> Prompted[Told]:
        step = report.index
        positive = [(Told(part.at(step), sizes), part.weight) for part in plan.parts]
        return Prompted(positive, Told(plan.negative.at(step), negative_sizes))

    guidance = Guidance(
        scale=options.cfg,
        rescale=options.cfg_rescale,
        skip_early=options.skip_early,
        s_min_uncond=options.s_min_uncond,
        pag=options.pag,
    )
    network = Network(model.loaded.model, model.dtype)
    return guided(
        network, guidance, prompted, model.noise, model.loaded.prediction, calls=options.steps
    )


def seeds_of(options: Options, index: int) -> tuple[int, int | None]:
    """Seed and variation seed of a picture: the second is counted up where it has an effect."""
    variation = options.variation_seed
    if variation is not None and options.variation_strength:
        return options.seed, (variation + index) % (1 << 64)
    return (options.seed + index) % (1 << 64), None


def first_deviation(sigma: float, options: Options) -> float:
    """What the first noise is multiplied by.

    A1111 by the level, as if the picture beneath were black; diffusers, but for some of its
    samplers, so that the sum of picture and noise has the variance seen in training.
    """
    by_level = options.sampler in BY_LEVEL and options.schedule != "leading"
    if not options.follows_diffusers or by_level:
        return sigma
    return math.sqrt(sigma * sigma + 1)


def size_of(model: Model, options: Options) -> tuple[int, int]:  # height, width
    height, width = options.height or model.side_px, options.width or model.side_px
    # The UNet halves the latent's side at every level after its first.
    unit = model.factor << (len(model.loaded.model.config.unet.channel_mult) - 1)
    for name, side in (("height", height), ("width", width)):
        if side % unit:
            raise ConfigError(
                f"{name} must be a multiple of {unit} pixels for this model, got {side}"
            )
    return height, width


class Reporter:
    """Tells progress after every step, and stops there when asked to."""

    def __init__(
        self,
        total: int,
        progress: ProgressCallback | None,
        cancel: Cancel | None,
        callback: Callback | None,
    ):
        self.total, self.progress, self.cancel, self.callback = total, progress, cancel, callback
        self.done, self.began = 0, time.perf_counter()
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
