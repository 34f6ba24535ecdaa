"""What the autoencoder and the UNet are trained on, whatever it was read from."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from accel.core import InputError
from accel.training.diffusion.captioned import Captioned
from accel.training.diffusion.emoji import Emoji, load_data


class Pictures(Protocol):
    """Pictures with captions.

    rgba: [N, side, side, 4] uint8, premultiplied with alpha. labels: what they show.
    backgrounds: colours by name, that transparent pictures are laid on; the first is the usual.
    held_out: numbers of pictures that are never shown in training.
    """

    rgba: Tensor
    labels: list[str]
    backgrounds: dict[str, tuple[int, int, int]]
    held_out: set[int]

    def __len__(self) -> int: ...

    def plain(self, picture: int, colour: str = "white") -> str:
        """The caption that evaluation prompts with."""

    def caption(self, picture: int, colour: str, random: torch.Generator) -> str:
        """A caption for training; may differ from draw to draw."""

    def words(self) -> list[str]:
        """Texts whose tokens deserve a row of their own in the token table."""


def open_pictures(path: Path, side: int) -> Pictures:
    """A .npz of emoji (training/nano/data.py) or a folder of captioned pictures."""
    if path.is_dir():
        return Captioned(path, side)
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    return Emoji(load_data(path))
