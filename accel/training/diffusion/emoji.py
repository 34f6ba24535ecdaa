"""Emoji in several drawing styles as training pictures: which are learnt, and by what captions.

The file is made by training/nano/data.py.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from accel.core import InputError, open_file

Array = NDArray[Any]

STYLES = ("flat", "noto", "3d")  # "gradient" equals "3d" in a third of all pictures at 64 px
SHARES = {3: 110, 4: 90, 7: 70, 5: 60, 6: 25, 0: 30, 1: 15}  # concepts of each emojibase group
LONGEST_LABEL = 2  # words
MIN_DISTANCE = 0.05  # between two concepts' pictures at 16 px, as a share of the value range
MAX_BYTES = 1 << 29  # of a file, unpacked
HELD_OUT = 0.1  # share of the (concept, style) pairs
FIELDS = ("image", "label", "tags", "group", "version", "style")

COLOURS = {
    "white": (255, 255, 255),
    "red": (225, 60, 55),
    "orange": (245, 150, 50),
    "yellow": (250, 220, 80),
    "green": (80, 175, 90),
    "blue": (70, 130, 220),
    "purple": (145, 90, 200),
    "pink": (245, 160, 200),
    "brown": (140, 95, 65),
    "grey": (150, 150, 150),
    "black": (25, 25, 25),
}


def load_data(path: Path) -> dict[str, Array]:
    """Read the arrays; InputError where the file is not such a set."""
    try:
        with open_file(path, "a .npz") as opened, np.load(opened, allow_pickle=False) as file:
            taken = sum(member.file_size for member in file.zip.infolist())
            if taken > MAX_BYTES:
                raise InputError(f"{path}: must unpack to {MAX_BYTES} bytes at most, got {taken}")
            data = {name: file[name] for name in file.files if name in FIELDS}
    except InputError:
        raise
    except (OSError, ValueError, EOFError, LookupError, AttributeError, TypeError, RuntimeError,
            SyntaxError, MemoryError, zipfile.BadZipFile, zlib.error) as error:  # fmt: skip
        raise InputError(f"{path}: must be a .npz of training/nano/data.py ({error})") from None
    missing = [name for name in FIELDS if name not in data]
    if missing:
        raise InputError(f"{path}: must hold {', '.join(FIELDS)}; {', '.join(missing)} is missing")
    return data


class Emoji:
    """The chosen concepts in STYLES; a picture's number is concept * len(STYLES) + style."""

    def __init__(self, data: dict[str, Array], concepts: list[int] | None = None):
        chosen = choose(data) if concepts is None else concepts
        keep = [list(data["style"]).index(s) for s in STYLES]
        self.concepts = len(chosen)
        self.rgba: Tensor = torch.from_numpy(data["image"][chosen][:, keep]).flatten(0, 1)
        self.labels = [str(data["label"][i]).lower() for i in chosen]
        self.tags: list[list[str]] = [json.loads(str(data["tags"][i])) for i in chosen]
        self.backgrounds = dict(COLOURS)
        self.truth = thumbnails(data)[chosen]  # [concepts, styles, 768]
        self.held_out = self._held_out()

    def __len__(self) -> int:
        return len(self.rgba)

    def style_of(self, picture: int) -> str:
        return STYLES[picture % len(STYLES)]

    def plain(self, picture: int, colour: str = "white") -> str:
        """The full caption."""
        label = self.labels[picture // len(STYLES)]
        return f"{label}, {self.style_of(picture)} style, {colour} background"

    def caption(self, picture: int, colour: str, random: torch.Generator) -> str:
        """Parts are left out at random, so that a prompt of a bare name works too."""

        def chance(p: float) -> bool:
            return torch.rand((), generator=random).item() < p

        concept = picture // len(STYLES)
        name = self.labels[concept]
        parts = [f"{article(name)} {name}" if chance(0.3) else name]
        tags = self.tags[concept]
        if tags and chance(0.25):
            order = torch.randperm(len(tags), generator=random)[:2].tolist()
            parts += [tags[i] for i in order]
        if chance(0.9):
            parts.append(f"{self.style_of(picture)} style")
        if colour != "white" or chance(0.3):
            parts.append(f"{colour} background")
        return ", ".join(parts)

    def words(self) -> list[str]:
        """Every text whose tokens deserve a row of their own: names, and tags used twice."""
        counts: dict[str, int] = {}
        for tag in (t for tags in self.tags for t in tags):
            counts[tag] = counts.get(tag, 0) + 1
        twice = [tag for tag, count in counts.items() if count > 1]
        frame = ["a", "an", ",", "style", "background", "on", "of", "and", "in", "the", "with"]
        return [*self.labels, *twice, *frame, *STYLES, "gradient", *COLOURS]

    def _held_out(self) -> set[int]:
        """At most one style of a concept, or nothing would be known of it at all."""
        random = torch.Generator().manual_seed(2)
        count = round(HELD_OUT * self.concepts * len(STYLES))
        picked = sorted(torch.randperm(self.concepts, generator=random)[:count].tolist())
        return {c * len(STYLES) + i % len(STYLES) for i, c in enumerate(picked)}


def choose(data: dict[str, Array]) -> list[int]:
    """Indices of the concepts to learn: one-word names first, the oldest of each group first.

    A picture that is almost another's is passed over, as no evaluation could tell the two apart.
    """
    small = thumbnails(data)
    words = np.array([len(str(label).split()) for label in data["label"]])
    rank = np.lexsort((np.arange(len(small)), data["version"], words))
    chosen: list[int] = []
    for group, share in SHARES.items():
        taken = 0
        for i in rank[data["group"][rank] == group]:
            if taken == share:
                break
            if words[i] > LONGEST_LABEL:
                continue
            if chosen and np.abs(small[chosen] - small[i]).mean((1, 2)).min() < MIN_DISTANCE:
                continue
            chosen.append(int(i))
            taken += 1
    return sorted(chosen)


def thumbnails(data: dict[str, Array]) -> Array:  # [concepts, styles, 768] on white, 0..1
    keep = [list(data["style"]).index(s) for s in STYLES]
    rgba = data["image"][:, keep].astype(np.float32) / 255
    rgb = rgba[..., :3] + 1 - rgba[..., 3:]
    blocks = rgb.reshape(*rgb.shape[:2], 16, 4, 16, 4, 3)
    return np.asarray(blocks.mean((3, 5)).reshape(*rgb.shape[:2], -1))


def article(name: str) -> str:
    return "an" if name[0] in "aeiou" else "a"
