"""Which LoRA files one run asks for: those of its options and `<lora:...>` tags in its prompt."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PureWindowsPath

from accel.core import ConfigError
from accel.models.lora import Strength
from accel.pipelines.generate import hashes
from accel.pipelines.generate.infotext import plain
from accel.pipelines.generate.model import Lora, Model
from accel.pipelines.generate.model_folders import ModelFolders, embedded_lora
from accel.pipelines.generate.options import Options
from accel.text.prompt import TAG, Tag, number, take_tags

KINDS = ("lora", "lyco")
NOT_IN_TAGS = set(":<>=")


def loras_of(prompt: str, options: Options, model: Model) -> list[Lora]:
    """The prompt's, then standing ones, then the options'.

    A picture's text has tags of the others behind the prompt's own, and a sum's last bits hang on
    its order.
    """
    find = model.folders.find
    # Prompts come from strangers: their tags mean models and no other files.
    named = [(find("lora", name, anywhere=False), weight) for name, weight in tagged(prompt)]
    return [*named, *((find("lora", name), weight) for name, weight in untagged(options, model))]


def untagged(options: Options, model: Model) -> list[Lora]:
    return [*model.standing_loras, *options.loras]


def tagged(prompt: str) -> list[Lora]:
    return [from_tag(tag) for tag in take_tags(prompt)[1] if tag.kind in KINDS]


def with_tags(prompt: str, loras: Sequence[Lora], folders: ModelFolders) -> str:
    """The prompt with a tag for each LoRA that was asked for otherwise, so that none is lost."""
    tags = []
    for name, weight in loras:
        weights = weight if isinstance(weight, tuple) else (weight,)
        tags.append(":".join(["<lora", tag_name(name, folders), *map(plain, weights)]) + ">")
    return " ".join([prompt, *tags]).strip()


def tag_name(name: str | Path, folders: ModelFolders) -> str:
    """What a tag calls a file: its name or stem; a hash where a tag cannot hold that, or where
    several files have it."""
    path = folders.find("lora", name)
    word = embedded_lora(path) or (path.stem if Path(name) == path else str(name))
    same = {one.path.resolve() for one in folders.of("lora") if one.stem == word}
    if set(word) & NOT_IN_TAGS or (len(same | {path.resolve()}) > 1 and word == path.stem):
        return hashes.data_sha256(path)[: hashes.LORA_DIGITS]
    return word


def without(prompt: str, given: Sequence[Lora]) -> str:
    """The prompt without tags of those that are given beside it, by file or by name."""
    stems = {Path(one[0]).stem for one in given}

    def kept(match: re.Match[str]) -> str:
        name = match[2].split(":")[0]
        return "" if match[1] in KINDS and PureWindowsPath(name).name in stems else match[0]

    return TAG.sub(kept, prompt).strip()


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
