"""Which LoRA files one run asks for: those of its options and `<lora:...>` tags in its prompt."""

from __future__ import annotations

from pathlib import PureWindowsPath

from accel.core import ConfigError
from accel.models.lora import Strength
from accel.pipelines.generate.model import Lora, Model
from accel.pipelines.generate.options import Options
from accel.text.prompt import Tag, number, take_tags


def loras_of(prompt: str, options: Options, model: Model) -> list[Lora]:
    """Standing ones first, then the options', then the prompt's, in order."""
    tagged = [from_tag(tag) for tag in take_tags(prompt)[1] if tag.kind in ("lora", "lyco")]
    asked: list[Lora] = [
        (model.folders.find("lora", name), weight) for name, weight in options.loras
    ]
    asked += [(model.folders.find("lora", name), weight) for name, weight in tagged]
    return [*model.standing_loras, *asked]


def from_tag(tag: Tag) -> tuple[str, Strength]:
    """`<lora:name:weight>`, `<lora:name:text:unet>`, or with names: `<lora:name:te=0.5:unet=1>`."""
    if not tag.values:
        raise ConfigError("prompt: a <lora:...> tag must name a file")
    name = PureWindowsPath(tag.values[0])  # which knows both kinds of slashes
    if name.anchor or ".." in name.parts:  # prompts come from strangers, options do not
        raise ConfigError(
            f"prompt: a <lora:...> tag must name a file of the models, got {tag.values[0]}"
        )
    text = number(tag.values[1]) if len(tag.values) > 1 else 1.0
    text = number(tag.named["te"]) if "te" in tag.named else text
    unet = number(tag.values[2]) if len(tag.values) > 2 else text
    unet = number(tag.named["unet"]) if "unet" in tag.named else unet
    return tag.values[0], text if text == unet else (text, unet)
