"""A picture made again from the text that it carries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from accel.core import ConfigError, InputError
from accel.models import nano
from accel.models.load import DTYPES
from accel.pipelines.generate.canvas import MAX_START_PX
from accel.pipelines.generate.infotext import parse, settings_of
from accel.pipelines.generate.model_folders import ModelFolders
from accel.pipelines.generate.output import text_of
from accel.pipelines.generate.pictures import open_picture
from accel.video.picture_header import FORMATS
from accel.weights.assets import manifest

MAX_HIRES_PX = 4096 * 4096  # of a second pass that a picture's text asks for
ABOUT_MODELS = {"VAE": "vae", "VAE Decoder": "decoder", "Prediction": "prediction",
                "Precision": "dtype", "Runtime": "runtime"}  # fmt: skip


def settings_from(
    path: Path,
    models: str | Path | None = None,
    *,
    has_model: bool = False,
    has_controls: bool = False,
) -> dict[str, Any]:
    """Prompt, model and options of a picture, as `accel.generate` takes them.

    The model is looked for by its hash, then by its name, unless `has_model`: one is given.
    Raises InputError for a picture without such a text, ConfigError for a model that is not there,
    and for a picture that other pictures steered, unless `has_controls`: they are given again.
    """
    open_picture(path).close()  # says in one line what is wrong with a file that is no picture
    text = text_of(path)
    info = parse(text) if text else None
    if info is None or not info.pairs:
        raise InputError(f"{path}: carries no text of how it was made")
    steered = info.pairs.get("ControlNet 0")
    if steered and not has_controls:
        raise ConfigError(
            f"{path}: was steered by a picture that its text does not hold; give it again with"
            f" --control and --control-image ({steered})"
        )
    settings = settings_of(info)
    check_modest(path, settings)
    settings["prompt"] = info.prompt
    if not has_model:
        digits, name = info.pairs.get("Model hash"), info.pairs.get("Model")
        settings["model"] = model_of(digits, name, models)
    for key, name in ABOUT_MODELS.items():
        if key in info.pairs:
            settings[name] = info.pairs[key]
    if info.pairs.get("Noise Schedule") == "Zero Terminal SNR":
        settings["zero_terminal_snr"] = True
    if "dtype" in settings:
        settings["dtype"] = precision(settings["dtype"])
    return settings


def precision(name: str) -> torch.dtype:
    for dtype in DTYPES:
        if str(dtype) == f"torch.{name}":
            return dtype
    raise ConfigError(f"infotext: Precision cannot be read: {name!r:.80}")


def check_modest(path: Path, settings: dict[str, Any]) -> None:
    """Refuse what a stranger's picture may not ask of this machine, but a person may."""
    width, height = settings.get("width", 0), settings.get("height", 0)
    enlarged = max(1.0, settings.get("hires_scale", 1.0))
    for name, pixels, most in (
        ("width and height", width * height, MAX_START_PX),
        ("hires-scale", width * height * enlarged**2, MAX_HIRES_PX),
    ):
        if not pixels <= most:  # written so that NaN is refused too
            raise ConfigError(
                f"{path}: its text may ask for {most} pixels at most, asks for {width}x{height}"
                f" times {enlarged:g}: say what it shows with {name} of your own, without --from"
            )


def model_of(digits: str | None, name: str | None, models: str | Path | None) -> str:
    """Where the model of a picture lies, by its hash, else by its name; ConfigError if nowhere."""
    own = str(manifest().get("nano.safetensors", {}).get("sha256", ""))
    if name == nano.NAME and digits is not None and not own.startswith(digits):
        raise ConfigError(
            f"the picture was made with another version of nano: {digits}, this one is {own[:10]};"
            " name a model to go on"
        )
    if name == nano.NAME:
        return nano.NAME
    folders = ModelFolders(Path(models) if models else None)
    for wanted in filter(None, (digits, name)):
        try:
            return str(folders.find("checkpoint", wanted))
        except ConfigError:
            continue
    raise ConfigError(f"the picture's model is not in {folders.root}: {name}, hash {digits}")


def equals(first: Path, second: Path) -> bool:
    """Whether two pictures have the same pixels."""
    with Image.open(first, formats=FORMATS) as a, Image.open(second, formats=FORMATS) as b:
        same_size = a.size == b.size
        return same_size and np.array_equal(
            np.asarray(a.convert("RGB")), np.asarray(b.convert("RGB"))
        )
