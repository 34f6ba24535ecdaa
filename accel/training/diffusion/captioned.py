"""A folder of pictures, each with its caption in a .txt file of the same name beside it."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from accel.core import InputError, open_file, read_file
from accel.video.picture_header import DAMAGED, check_picture_size, open_header
from accel.video.read import DEFAULT_LIMITS

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
MAX_CAPTION_BYTES = 1 << 16
MAX_PX, LARGE_PX = 1 << 25, 1 << 23


def captioned(folder: Path) -> list[tuple[Path, str]]:
    """Pictures of a folder, by name, with their captions.

    A picture without a .txt is captioned by its file name. Raises InputError for no pictures.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: must be a folder of pictures with captions in .txt files")
    found = []
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in PICTURES:
            continue
        beside = path.with_suffix(".txt")
        text = path.stem.replace("_", " ").replace("-", " ")
        if beside.exists():
            read = read_file(beside, MAX_CAPTION_BYTES, "a caption")
            text = " ".join(read.decode("utf-8", "replace").split())
        found.append((path, text))
    if not found:
        raise InputError(f"{folder}: must hold pictures ({', '.join(PICTURES)})")
    return found


def read_square(path: Path, side: int) -> Tensor:  # [side, side, 4] uint8, premultiplied
    """The middle square of a picture, upright, shrunk or enlarged to `side`. Raises InputError."""
    try:
        rgba = _middle(path)
    except InputError:
        raise
    except (*DAMAGED, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: must be a picture ({error})") from None
    edge = rgba.width
    if edge * edge > LARGE_PX:  # whose numbers would take a gigabyte
        values = np.asarray(rgba.convert("RGBa").reduce(max(1, edge // (4 * side))), np.float32)
    else:
        values = np.asarray(rgba).astype(np.float32)
        values[..., :3] *= values[..., 3:] / 255  # or transparent pixels would bleed into edges
    planes = [
        np.asarray(Image.fromarray(values[..., i]).resize((side, side), Image.Resampling.LANCZOS))
        for i in range(4)
    ]
    return torch.from_numpy(np.clip(np.stack(planes, -1) + 0.5, 0, 255).astype(np.uint8))


def _middle(path: Path) -> Image.Image:  # RGBA, a square
    with open_file(path, "a picture") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of damaged EXIF, and of sizes that are checked here
        with open_header(file, path, formats=FORMATS) as picture:
            if picture.width * picture.height > MAX_PX:
                raise InputError(f"{path}: must have {MAX_PX} pixels at most, got {picture.size}")
            check_picture_size(path, picture, DEFAULT_LIMITS)
            picture.load()
            ImageOps.exif_transpose(picture, in_place=True)  # as its viewer holds it
            edge = min(picture.size)
            left, top = ((s - edge) // 2 for s in picture.size)
            return picture.crop((left, top, left + edge, top + edge)).convert("RGBA")


class Captioned:
    """Such a folder as training pictures of one size."""

    def __init__(self, folder: Path, side: int):
        entries = captioned(folder)
        self.rgba = torch.stack([read_square(path, side) for path, _ in entries])
        self.captions = [text for _, text in entries]
        self.labels = self.captions
        self.backgrounds = {"white": (255, 255, 255)}
        # Every tenth picture is kept aside, when there are enough to spare some.
        self.held_out = set(range(9, len(entries), 10)) if len(entries) >= 40 else set()

    def __len__(self) -> int:
        return len(self.captions)

    def plain(self, picture: int, colour: str = "white") -> str:
        return self.captions[picture]

    def caption(self, picture: int, colour: str, random: torch.Generator) -> str:
        return self.captions[picture]

    def words(self) -> list[str]:
        return self.captions
