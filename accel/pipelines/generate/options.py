"""Everything that can be asked of one run, with the defaults that all entry points share."""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accel.core import ConfigError
from accel.models.lora import Strength
from accel.pipelines.generate.controls import Control, control_of
from accel.pipelines.generate.pictures import RESIZES
from accel.pipelines.generate.upscale import find_upscaler
from accel.sampling.names import find_names, unknown
from accel.text.emphasis import MODES as EMPHASIS

CONVENTIONS = ("a1111", "diffusers")
# Endings of the names of diffusers' own schedules.
SPACINGS = ("leading", "linspace", "trailing", "_to_min", "lcm", "tcd")
NOISE_SOURCES = ("cpu", "philox")
MASK_CONTENTS = ("fill", "original", "latent noise", "latent nothing")
OUTPUTS = ("image", "latent")
MAX_COUNT, MAX_SIDE_PX = 1000, 8192
WHOLE = {"steps", "seed", "count", "clip_skip", "deepcache", "deepcache_branch", "mask_blur",
         "padding", "hires_steps", "width", "height"}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Options:
    """What one run makes, and how. Names are those of the command line.

    negative: what the picture shall not show.
    schedule: noise levels; "automatic" takes A1111's choice for the sampler.
    cfg: guidance scale; 1 follows the prompt alone, at half the cost.
    seed: of the first picture; the next has the next seed.
    width, height: pixels; None takes the model's own size, or that of `init`.
    strength: how much of `init` is replaced (0 to 1); of the second pass it is `hires_strength`.
    loras: (file or name, weight, or weights of text and of UNet) beside those named in the prompt.
    controls: ControlNets and T2I-Adapters: `Control`, or (file, picture, weight, start, end, mode)
        of which the last ones may be left out.
    clip_skip: 2 takes the text from the last layer but one, and so on.
    eta: share of the noise that ancestral samplers put back; None is each sampler's own.
    variation_seed, variation_strength: mixes in another seed's noise (0 to 1).
    noise_source: "cpu" draws as torch does on a CPU, "philox" as CUDA does.
    convention: whose arithmetic of the first noise and of `strength` is followed; None takes
        diffusers' for its own schedules (leading, linspace, trailing), A1111's for all others.
    cfg_rescale: 0 to 1, against over-exposure (Lin et al. 2023, arXiv:2305.08891).
    image_cfg: guidance scale of the picture, for models that edit one.
    emphasis: what (word:1.2) does: "original" keeps the mean, "no norm" does not, "comfy" scales
        the distance to the empty prompt, "ignore" nothing; with "none", brackets are text.
    skip_early: share of the steps, from the first, without guidance.
    s_min_uncond: below this noise level every other step is without guidance.
    pag: strength of perturbed-attention guidance; 0 is off.
    deepcache: the deep part of the network runs at every so many steps alone; 1 is at all
        (arXiv:2312.00858). deepcache_branch: where it is cut; 0, outermost, is quickest.
    tgate: share of the steps after which cross attention is frozen and guidance ends; 1 is never
        (arXiv:2404.02747).
    token_merging: share of the tokens that self attention at the first level is spared; 0 is none
        (arXiv:2303.17604). These three are approximations: docs/generate.md says how good.
    tiling: edges match, so that the picture can be laid side by side.
    resize: how a picture is brought to another shape: "stretch", "crop" or "fill".
    mask_blur: pixels; mask_invert: black is replaced instead of white; mask_content: what lies
        under the mask at first; only_masked: work on the masked part alone, enlarged, with
        `padding` pixels around it.
    outpaint: pixels that are added at the left, top, right and bottom.
    hires_scale: above 1, a second pass enlarges the picture by that much.
    hires_upscaler: "latent", "latent (nearest)", ..., "esrgan", "lanczos".
    hires_steps: 0 takes `steps`.
    """

    negative: str = ""
    sampler: str = "dpmpp_2m"
    schedule: str = "karras"
    steps: int = 20
    cfg: float = 7.0
    seed: int = 0
    width: int | None = None
    height: int | None = None
    count: int = 1
    strength: float = 0.75
    loras: tuple[tuple[str | Path, Strength], ...] = ()
    controls: tuple[Control, ...] = ()
    clip_skip: int = 1
    eta: float | None = None
    variation_seed: int | None = None
    variation_strength: float = 0.0
    noise_source: str = "cpu"
    convention: str | None = None
    cfg_rescale: float = 0.0
    image_cfg: float = 1.5
    emphasis: str = "original"
    skip_early: float = 0.0
    s_min_uncond: float = 0.0
    pag: float = 0.0
    deepcache: int = 1
    deepcache_branch: int = 0
    tgate: float = 1.0
    token_merging: float = 0.0
    tiling: bool = False
    resize: str = "stretch"
    mask_blur: int = 4
    mask_invert: bool = False
    mask_content: str = "original"
    only_masked: bool = False
    padding: int = 32
    outpaint: tuple[int, int, int, int] = (0, 0, 0, 0)
    hires_scale: float = 1.0
    hires_upscaler: str = "latent"
    hires_steps: int = 0
    hires_strength: float = 0.7

    def __post_init__(self) -> None:
        sampler, schedule = find_names(self.sampler, self.schedule)
        object.__setattr__(self, "sampler", sampler)
        object.__setattr__(self, "schedule", schedule)
        object.__setattr__(self, "hires_upscaler", find_upscaler(self.hires_upscaler))
        object.__setattr__(self, "controls", tuple(control_of(one) for one in self.controls))
        object.__setattr__(self, "loras", tuple(lora_of(one) for one in self.loras))
        self._check_choices()
        self._check_ranges()

    def _check_choices(self) -> None:
        choices: Sequence[tuple[str, Sequence[Any]]] = (
            ("convention", (None, *CONVENTIONS)),
            ("noise_source", NOISE_SOURCES),
            ("emphasis", EMPHASIS),
            ("mask_content", MASK_CONTENTS),
            ("resize", RESIZES),
        )
        for name, allowed in choices:
            if getattr(self, name) not in allowed:
                some = ", ".join(str(a) for a in allowed if a)
                raise ConfigError(f"{name} must be one of {some}; got {getattr(self, name)!r}")

    def _check_ranges(self) -> None:
        ranges: Sequence[tuple[str, float, float]] = (
            ("steps", 1, 500),
            ("cfg", -100, 100),
            ("image_cfg", -100, 100),
            ("seed", 0, (1 << 64) - 1),
            ("count", 1, MAX_COUNT),
            ("strength", 0, 1),
            ("clip_skip", 1, 12),
            ("variation_strength", 0, 1),
            ("cfg_rescale", 0, 1),
            ("skip_early", 0, 1),
            ("pag", 0, 100),
            ("deepcache", 1, 100),
            ("deepcache_branch", 0, 100),
            ("tgate", 0, 1),
            ("token_merging", 0, 0.9),
            ("s_min_uncond", 0, 100),
            ("mask_blur", 0, 256),
            ("padding", 0, 1024),
            ("hires_scale", 1, 8),
            ("hires_steps", 0, 500),
            ("hires_strength", 0, 1),
        )
        for name, low, high in ranges:
            value = getattr(self, name)
            check_number(name, value)
            if not low <= value <= high:  # written so that NaN is refused too
                raise ConfigError(f"{name} must lie in {low}..{high}, got {value}")
        for name in ("width", "height"):
            side = getattr(self, name)
            if side is not None:
                check_number(name, side)
            if side is not None and not 8 <= side <= MAX_SIDE_PX:
                raise ConfigError(f"{name} must lie in 8..{MAX_SIDE_PX} pixels, got {side}")
            if side is not None and side % 8:
                raise ConfigError(
                    f"{name} must be a multiple of 8 pixels, got {side};"
                    f" near: {side - side % 8}, {side - side % 8 + 8}"
                )
        if len(self.outpaint) != 4 or any(not 0 <= p <= MAX_SIDE_PX for p in self.outpaint):
            raise ConfigError(
                f"outpaint must be four counts of pixels, at most {MAX_SIDE_PX},"
                f" got {self.outpaint}"
            )

    @property
    def approximates(self) -> bool:
        return self.deepcache > 1 or self.tgate < 1 or self.token_merging > 0

    @property
    def follows_diffusers(self) -> bool:
        if self.convention is None:
            return self.schedule.endswith(SPACINGS)
        return self.convention == "diffusers"

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Options:
        """From names and values; ConfigError, with the nearest names, for one that is none."""
        known = [f.name for f in dataclasses.fields(cls)]
        for name in settings:
            if name not in known:
                raise unknown("option", name, known)
        return cls(**settings)


def lora_of(given: Any) -> tuple[str | Path, Strength]:
    """A file or name and its weight, or the weights of text and of UNet."""
    if isinstance(given, (tuple, list)) and len(given) == 2 and isinstance(given[0], (str, Path)):
        name, weight = given
        weights = weight if isinstance(weight, (tuple, list)) else (weight,)
        if len(weights) in (1, 2) and all(is_finite(one) for one in weights):
            return name, weights[0] if len(weights) == 1 else (weights[0], weights[1])
    raise ConfigError(f"loras must be (file, weight) each, got {given!r:.120}")


def is_finite(value: Any) -> bool:
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return is_number and math.isfinite(value)


def check_number(name: str, value: Any) -> None:
    """Raises ConfigError, where a comparison would speak of types, for "7" or a picture's half."""
    kind = numbers.Integral if name in WHOLE else numbers.Real
    if not isinstance(value, kind) or isinstance(value, bool):
        what = "a whole number" if name in WHOLE else "a number"
        raise ConfigError(f"{name} must be {what}, got {value!r:.80}")
