"""The text that A1111 writes into its pictures, made and read.

Lines of prompt, lines of negative prompt, and one line of `Key: value` pairs. A value with a comma,
a colon or a line break in it is quoted as JSON does. In a PNG it is the text called `parameters`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import accel
from accel.core import ConfigError
from accel.pipelines.generate.options import Options
from accel.sampling.names import AUTOMATIC, SAMPLER_TITLES, SCHEDULE_TITLES

CHUNK = "parameters"  # of a PNG
NEGATIVE = "Negative prompt:"
# Keys are bounded: on a line of words without a colon, the time would grow with its square.
PAIR = re.compile(r'\s{0,9}(\w[\w \-/]{1,99}):\s*("(?:\\.|[^\\"])*"|[^,]*)(?:,|$)')
LEAST_PAIRS = 3  # a last line with fewer is part of the prompt
SIZE = re.compile(r"(\d{1,9})x(\d{1,9})")  # Python refuses to read numbers of 5,000 digits
RESIZE_TITLES = {"stretch": "Just resize", "crop": "Crop and resize", "fill": "Resize and fill"}
RNG = {"cpu": "CPU", "philox": "NV"}


@dataclass(frozen=True)
class Facts:
    """What a picture's text says beside the options.

    hashes of files are cut to the length that A1111 shows: ten digits for checkpoints, twelve for
    LoRA files and embeddings.
    """

    model: str
    model_hash: str
    vae: str = ""
    vae_hash: str = ""
    loras: Mapping[str, str] = field(default_factory=dict)
    embeddings: Mapping[str, str] = field(default_factory=dict)
    zero_terminal_snr: bool = False
    controls: Sequence[str] = ()
    decoder: str = ""
    prediction: str = ""  # where the model was told what it predicts
    precision: str = ""  # of the weights, but for float32
    runtime: str = ""  # but for torch


@dataclass(frozen=True)
class Info:
    """A picture's text, taken apart; `pairs` in order, values as they were before quoting."""

    prompt: str
    negative: str
    pairs: Mapping[str, str]


# ------------------------------------------------------------------ writing


def compose(
    prompt: str,
    options: Options,
    facts: Facts,
    *,
    size: tuple[int, int],  # width, height of the first pass
    seed: int,
    variation_seed: int | None = None,
    init_hash: str | None = None,
    has_mask: bool = False,
) -> str:
    """The whole text, made of what was asked for and what was used."""
    pairs = described(
        options, facts, size=size, seed=seed, variation_seed=variation_seed, init_hash=init_hash,
        has_mask=has_mask,
    )  # fmt: skip
    negative = f"\n{NEGATIVE} {options.negative}" if options.negative else ""
    line = ", ".join(f"{key}: {quoted(value)}" for key, value in pairs.items())
    return f"{prompt}{negative}\n{line}".strip()


def described(
    options: Options,
    facts: Facts,
    *,
    size: tuple[int, int],
    seed: int,
    variation_seed: int | None,
    init_hash: str | None,
    has_mask: bool,
) -> dict[str, str]:
    """The pairs of the last line; what has its usual value is left out."""
    o = options
    hires, edits = o.hires_scale > 1, init_hash is not None
    inpaints = has_mask or any(o.outpaint)
    strength = o.strength if edits else o.hires_strength if hires else None
    resizes = edits or bool(o.controls)
    only = o.only_masked and has_mask
    pairs: dict[str, Any] = {
        "Steps": o.steps,
        "Sampler": SAMPLER_TITLES.get(o.sampler, o.sampler),
        "Schedule type": SCHEDULE_TITLES.get(o.schedule, o.schedule),
        "CFG scale": o.cfg,
        "Image CFG scale": o.image_cfg if edits and o.image_cfg != Options.image_cfg else None,
        "Seed": seed,
        "Size": f"{size[0]}x{size[1]}",
        "Model hash": facts.model_hash or None,
        "Model": facts.model.replace(",", "").replace(":", ""),
        "VAE hash": facts.vae_hash or None,
        "VAE": facts.vae or None,
        "VAE Decoder": facts.decoder or None,
        "Variation seed": variation_seed,
        "Variation seed strength": None if variation_seed is None else o.variation_strength,
        "Denoising strength": strength,
        "Resize mode": RESIZE_TITLES[o.resize] if resizes and o.resize != "stretch" else None,
        "Clip skip": o.clip_skip if o.clip_skip > 1 else None,
        "Init image hash": init_hash or None,
        "RNG": RNG[o.noise_source],
        "Tiling": True if o.tiling else None,
        "Eta": o.eta,
        "Emphasis": o.emphasis.title() if o.emphasis != "original" else None,
        "CFG Rescale": o.cfg_rescale or None,
        "Skip Early CFG": o.skip_early or None,
        "NGMS": o.s_min_uncond or None,
        "PAG scale": o.pag or None,
        "DeepCache": o.deepcache if o.deepcache > 1 else None,
        "DeepCache branch": o.deepcache_branch or None if o.deepcache > 1 else None,
        "T-GATE": o.tgate if o.tgate < 1 else None,
        "Token merging ratio": o.token_merging or None,
        "Noise Schedule": "Zero Terminal SNR" if facts.zero_terminal_snr else None,
        "Prediction": facts.prediction or None,
        "Precision": facts.precision or None,
        "Runtime": facts.runtime or None,
        "Arithmetic": o.convention,
        "Hires upscale": o.hires_scale if hires else None,
        "Hires steps": o.hires_steps or None if hires else None,
        "Hires upscaler": o.hires_upscaler if hires else None,
        # A1111 has one strength for both, and no second pass over what began with a picture.
        "Hires strength": o.hires_strength if hires and edits else None,
        "Mask blur": o.mask_blur if inpaints else None,
        "Mask mode": "Inpaint not masked" if o.mask_invert and inpaints else None,
        "Masked content": o.mask_content if inpaints else None,
        "Inpaint area": "Only masked" if only else None,
        "Masked area padding": o.padding if only else None,
        "Outpaint": " ".join(map(str, o.outpaint)) if any(o.outpaint) else None,
        **{f"ControlNet {i}": text for i, text in enumerate(facts.controls)},
        "Lora hashes": listed(facts.loras),
        "TI hashes": listed(facts.embeddings),
        "Version": f"accel {accel.__version__}",
    }
    return {key: plain(value) for key, value in pairs.items() if value is not None}


def plain(value: Any) -> str:
    """Whole numbers without a fraction; others so that they read back as the same number."""
    if isinstance(value, float) and value == int(value):
        return str(int(value))
    return str(value)


def listed(hashes: Mapping[str, str]) -> str | None:
    return ", ".join(f"{name}: {digits}" for name, digits in hashes.items()) or None


def quoted(value: str) -> str:
    return json.dumps(value, ensure_ascii=False) if re.search(r"[,:\n]", value) else value


def normalised(prompt: str) -> str:
    """A prompt as it comes back from a picture's text: lines without white space at their ends."""
    return "\n".join(line.strip() for line in prompt.strip().split("\n"))


# ------------------------------------------------------------------ reading


def parse(text: str) -> Info:
    """Take a picture's text apart; what is no line of pairs belongs to a prompt."""
    *lines, last = text.strip().split("\n")
    found = PAIR.findall(last)
    if len(found) < LEAST_PAIRS:
        lines, found = [*lines, last], []
    prompt: list[str] = []
    negative: list[str] = []
    current = prompt
    for line in map(str.strip, lines):
        if line.startswith(NEGATIVE):
            current, line = negative, line.removeprefix(NEGATIVE).strip()
        current.append(line)
    pairs = {key: unquoted(value.strip()) for key, value in found}
    return Info("\n".join(prompt), "\n".join(negative), pairs)


def unquoted(value: str) -> str:
    if len(value) < 2 or value[0] != '"' or value[-1] != '"':
        return value
    try:
        return str(json.loads(value))
    except ValueError:
        return value


def settings_of(info: Info) -> dict[str, Any]:
    """Fields of `Options` that a picture's text gives, by A1111's rules for those it leaves out.

    Raises ConfigError, naming the key, for a value that cannot be read.
    """
    pairs = info.pairs
    settings: dict[str, Any] = {
        "negative": info.negative,
        "schedule": pairs.get("Schedule type", AUTOMATIC),
        "noise_source": "cpu" if pairs.get("RNG") == "CPU" else "philox",
        "tiling": pairs.get("Tiling") == "True",
        "only_masked": pairs.get("Inpaint area") == "Only masked",
        "mask_invert": pairs.get("Mask mode") == "Inpaint not masked",
    }
    for key, (name, kind) in READ.items():
        if key in pairs:
            try:
                settings[name] = kind(pairs[key])
            except ValueError as error:
                raise ConfigError(f"infotext: {key} cannot be read: {pairs[key]!r}") from error
    size = SIZE.fullmatch(pairs.get("Size", ""))
    if size:
        settings["width"], settings["height"] = int(size[1]), int(size[2])
    for name, title in RESIZE_TITLES.items():
        if pairs.get("Resize mode") == title:
            settings["resize"] = name
    is_one = "Hires upscale" in pairs and "Hires strength" not in pairs
    if is_one and "Denoising strength" in pairs:
        settings["hires_strength"] = settings.pop("strength")
    return settings


def four(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split())


READ: dict[str, tuple[str, Any]] = {
    "Steps": ("steps", int),
    "Sampler": ("sampler", str),
    "CFG scale": ("cfg", float),
    "Image CFG scale": ("image_cfg", float),
    "Seed": ("seed", int),
    "Variation seed": ("variation_seed", int),
    "Variation seed strength": ("variation_strength", float),
    "Denoising strength": ("strength", float),
    "Clip skip": ("clip_skip", int),
    "Eta": ("eta", float),
    "Emphasis": ("emphasis", str.lower),
    "CFG Rescale": ("cfg_rescale", float),
    "Skip Early CFG": ("skip_early", float),
    "NGMS": ("s_min_uncond", float),
    "PAG scale": ("pag", float),
    "DeepCache": ("deepcache", int),
    "DeepCache branch": ("deepcache_branch", int),
    "T-GATE": ("tgate", float),
    "Token merging ratio": ("token_merging", float),
    "Arithmetic": ("convention", str),
    "Hires upscale": ("hires_scale", float),
    "Hires steps": ("hires_steps", int),
    "Hires upscaler": ("hires_upscaler", str),
    "Hires strength": ("hires_strength", float),
    "Mask blur": ("mask_blur", int),
    "Masked content": ("mask_content", str),
    "Masked area padding": ("padding", int),
    "Outpaint": ("outpaint", four),
}
