"""Which concepts `nano` learns, and the captions it learns them by."""

from __future__ import annotations

import json

import numpy as np
import torch

STYLES = ("flat", "noto", "3d")  # "gradient" equals "3d" in a third of all pictures at 64 px
SHARES = {3: 110, 4: 90, 7: 70, 5: 60, 6: 25, 0: 30, 1: 15}  # concepts of each emojibase group
LONGEST_LABEL = 2  # words
MIN_DISTANCE = 0.05  # between two concepts' pictures at 16 px, as a share of the value range

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


def choose(data: dict[str, np.ndarray]) -> list[int]:
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


def thumbnails(data: dict[str, np.ndarray]) -> np.ndarray:  # [concepts, styles, 768] on white, 0..1
    keep = [list(data["style"]).index(s) for s in STYLES]
    rgba = data["image"][:, keep].astype(np.float32) / 255
    rgb = rgba[..., :3] + 1 - rgba[..., 3:]
    blocks = rgb.reshape(*rgb.shape[:2], 16, 4, 16, 4, 3)
    return blocks.mean((3, 5)).reshape(*rgb.shape[:2], -1)


class Captioner:
    """Draws a caption for a picture: name, now and then keywords, style and background."""

    def __init__(self, labels: list[str], tags: list[list[str]]):
        self.labels, self.tags = labels, tags

    @classmethod
    def of(cls, data: dict[str, np.ndarray], concepts: list[int]) -> Captioner:
        labels = [str(data["label"][i]).lower() for i in concepts]
        return cls(labels, [json.loads(str(data["tags"][i])) for i in concepts])

    def plain(self, concept: int, style: str, colour: str = "white") -> str:
        return f"{self.labels[concept]}, {style} style, {colour} background"

    def draw(self, concept: int, style: str, colour: str, random: torch.Generator) -> str:
        """Parts are left out at random, so that a prompt of a bare name works too."""

        def chance(p: float) -> bool:
            return torch.rand((), generator=random).item() < p

        name = self.labels[concept]
        parts = [f"{article(name)} {name}" if chance(0.3) else name]
        tags = self.tags[concept]
        if tags and chance(0.25):
            order = torch.randperm(len(tags), generator=random)[:2].tolist()
            parts += [tags[i] for i in order]
        if chance(0.9):
            parts.append(f"{style} style")
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


def article(name: str) -> str:
    return "an" if name[0] in "aeiou" else "a"
