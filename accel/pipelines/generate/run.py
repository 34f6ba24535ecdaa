"""One run: from options to latents and pictures, each picture on its own."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from accel.core import Cancel, ConfigError, ProgressCallback
from accel.pipelines.generate.canvas import Canvas, Size, prepare, unit_of
from accel.pipelines.generate.controls import keep
from accel.pipelines.generate.draws import Draws, seeds_of
from accel.pipelines.generate.loras import loras_of
from accel.pipelines.generate.model import Lora, Model
from accel.pipelines.generate.network import seamless
from accel.pipelines.generate.options import Options
from accel.pipelines.generate.passes import Passes, is_editor
from accel.pipelines.generate.prompts import Plan, check_length
from accel.pipelines.generate.reporter import Callback, Reporter
from accel.pipelines.generate.stop import stoppable
from accel.pipelines.generate.upscale import LATENT, enlarged_image, enlarged_latent
from accel.sampling.names import schedule

MOST_STRENGTH = 0.999  # A1111: a strength of 1 still begins at the schedule's first level


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
    loras: Sequence[Lora] | None = None,
) -> Generator[Made, None, None]:
    """Yield each picture as it is done.

    The model is held while a picture is made and not between two: then others may use it, with
    other LoRA files in effect. This run keeps those that it began with: `loras`, or what
    `loras_of` gives.
    """
    check_length(prompt)
    if (options.tiling or options.pag) and not model.has_weights:
        raise ConfigError("tiling and pag need the networks themselves, not exported ones")
    check_approximations(model, options)
    loras = loras_of(prompt, options, model) if loras is None else loras
    maker, canvas = None, None
    for index in range(options.count):
        with model.lock:
            networks = keep(model, options.controls)
            model.use_loras(loras)
            if maker is None:
                maker = Maker(model, prompt, options, Reporter(progress, cancel, callback), noise)
            every = (model.loaded.model, model.tiny, *networks)
            with (
                seamless(model.loaded.model, *networks, wanted=options.tiling),
                stoppable(every, cancel),
            ):
                if canvas is None or several(init):
                    canvas = prepare(model, options, one_of(init, index), one_of(mask, index))
                    maker.expect(canvas)
                made = maker.make(index, canvas, decode)
        yield made


class Maker:
    """What all pictures of a run share: the plan of prompts, the levels, the passes."""

    def __init__(
        self, model: Model, prompt: str, options: Options, report: Reporter, draws: Any = None
    ):
        self.model, self.options, self.report, self.draws = model, options, report, draws
        self.passes = Passes(model, options, report)
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
        latent = self.passes.sample(source, canvas, self.plan, self.levels(canvas))
        if options.hires_scale > 1:
            larger = self.enlarge(latent, canvas)
            self.report.index = 0
            source = Draws(model, options, seeds, index, None)
            latent = self.passes.sample(source, larger, self.hires_plan, self.hires_sigmas)
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
            ("an editing model", is_editor(model)),
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
