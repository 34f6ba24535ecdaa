"""Pictures and masks that come in: from files, Pillow or tensors, fitted to a size."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from accel.core import ConfigError, InputError, open_file
from accel.kernels import crop, to_uint8
from accel.video.picture_header import DAMAGED, check_picture_size, open_header
from accel.video.read import DEFAULT_LIMITS
from accel.video.stills import ImageReader

HALVED_PX = 1 << 25  # of a file from which on it is halved
ORIENTATION = 0x0112  # of EXIF
STRIP = 256  # rows that are blended at a time
RESIZES = ("stretch", "crop", "fill")


def read_picture(source: Any, *, whole: bool = False) -> Image.Image:  # RGB
    """A file, a Pillow picture, [3, H, W] in -1..1, or [H, W, 3] of uint8; one picture.

    whole: in its own size, whatever that is, see `open_picture`.
    Raises InputError for a file that is no picture, ConfigError for what else cannot be one.
    """
    if isinstance(source, (str, Path)):
        source = open_picture(Path(source), whole=whole)
    elif isinstance(source, torch.Tensor):
        if not source.isfinite().all():
            raise ConfigError("picture must hold finite numbers, got NaN or infinity")
        source = from_tensor(source)
    elif isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.ndim != 3 or source.shape[2] != 3:
            raise ConfigError(f"picture must be uint8 [H, W, 3], got {source.dtype} {source.shape}")
        source = Image.fromarray(source)
    if not isinstance(source, Image.Image):
        raise ConfigError(f"picture must be a file or an array, got {type(source).__name__}")
    return flattened(source)


def read_mask(source: Any) -> Image.Image:  # L
    """A file or Pillow picture, by its brightness; [H, W] in 0..1, or of uint8 or bool."""
    if isinstance(source, (str, Path)):
        source = open_picture(Path(source))
    elif isinstance(source, (torch.Tensor, np.ndarray)):
        values = np.asarray(source.cpu() if isinstance(source, torch.Tensor) else source)
        values = values.squeeze()
        if values.ndim != 2:
            raise ConfigError(f"mask must be [H, W], got {values.shape}")
        if values.dtype != np.uint8:
            values = (values.astype(np.float32).clip(0, 1) * 255).round().astype(np.uint8)
        source = Image.fromarray(values)
    if not isinstance(source, Image.Image):
        raise ConfigError(f"mask must be a file or an array, got {type(source).__name__}")
    return flattened(source).convert("L")


def open_picture(path: Path, *, whole: bool = False) -> Image.Image:
    """A picture upright and decoded; InputError for any other file.

    One of more than HALVED_PX comes with half its sides unless `whole` is asked for: nothing is
    made in such sizes, and turning it as it is takes a gigabyte.
    """
    with _header(path) as picture:
        size = picture.size
        halved = (size[0] // 2, size[1] // 2)
        is_large = not whole and size[0] * size[1] > HALVED_PX
        try:
            upright: Image.Image = picture
            if is_large and picture.format == "WEBP" and picture.mode == "RGB":
                upright = _halved_webp(path, picture, halved)
            elif is_large:
                picture.draft(picture.mode, halved)  # which JPEG alone knows
            upright.load()
            if upright is picture and is_large and picture.size == size:
                turn = Image.Exif()
                turn[ORIENTATION] = picture.getexif().get(ORIENTATION, 1)
                upright = flattened(picture).reduce(2)
                upright.info["exif"] = turn.tobytes()
            ImageOps.exif_transpose(upright, in_place=True)  # else a copy even of what lies right
            return upright
        except DAMAGED as error:
            raise InputError(f"{path}: cannot be read as a picture: {error}") from error


def _halved_webp(path: Path, picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Decoded as films are: Pillow's reader of animations holds such a picture four times."""
    upright = Image.new("RGB", size)
    with ImageReader(path) as reader:
        planes = reader.frame(0).view()
        for top in range(0, size[1], STRIP):
            rows = min(STRIP, size[1] - top)
            half = torch.tensor([[[0.5, 0, -0.25], [0, 0.5, -0.25 - top]]])
            strip = crop(planes, half, (rows, size[0]), layout="NHWC")[0]
            values = (strip.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
            upright.paste(Image.fromarray(values), (0, top))
    if "exif" in picture.info:
        upright.info["exif"] = picture.info["exif"]
    return upright


def check_picture(path: Path) -> None:
    """Raise InputError for a file that is no picture or too large; decodes nothing."""
    with _header(path):
        pass


@contextmanager
def _header(path: Path) -> Iterator[Image.Image]:
    with open_file(path, "a picture") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of sizes that are checked here, and of damaged EXIF
        try:
            picture = open_header(file, path)
        except InputError:
            raise
        except (UnidentifiedImageError, Image.DecompressionBombError) as error:
            raise InputError(f"{path}: must be a picture") from error
        except DAMAGED as error:
            raise InputError(f"{path}: cannot be read as a picture: {error}") from error
        try:
            check_picture_size(path, picture, DEFAULT_LIMITS)
        except InputError:
            raise
        except DAMAGED as error:
            raise InputError(f"{path}: cannot be read as a picture: {error}") from error
        yield picture


def flattened(picture: Image.Image) -> Image.Image:
    """Transparent parts on white; a picture of RGB is given back as it is."""
    if picture.mode == "RGB" and "transparency" not in picture.info:
        return picture
    if picture.mode not in ("RGBA", "LA", "PA") and "transparency" not in picture.info:
        return picture.convert("RGB")
    out = Image.new("RGB", picture.size)
    for top in range(0, picture.height, STRIP):  # whole, a large one would be there four times
        box = (0, top, picture.width, min(top + STRIP, picture.height))
        strip = picture.crop(box).convert("RGBA")
        ground = Image.new("RGBA", strip.size, (255, 255, 255, 255))
        out.paste(Image.alpha_composite(ground, strip).convert("RGB"), box)
    return out


def from_tensor(image: Tensor) -> Image.Image:  # [3, H, W] or [1, 3, H, W] in -1..1
    if image.ndim == 4 and len(image) == 1:
        image = image[0]
    if image.ndim != 3 or image.shape[0] != 3:
        raise ConfigError(f"picture must be [3, H, W] in -1..1, got {tuple(image.shape)}")
    return Image.fromarray(to_rgb(image[None]))


def to_rgb(image: Tensor) -> NDArray[np.uint8]:  # [1, 3, H, W] about -1..1 -> [H, W, 3]
    return to_uint8(image.float())[0].cpu().numpy()


def to_tensor(picture: Image.Image) -> Tensor:  # [1, 3, H, W] in -1..1
    values = torch.from_numpy(np.array(picture)).float() / 127.5 - 1
    return values.permute(2, 0, 1)[None].contiguous()


def fitted(picture: Image.Image, size: tuple[int, int], how: str = "stretch") -> Image.Image:
    """To (width, height): stretched; cropped around the middle; or whole, its edges drawn out."""
    if picture.size == size:
        return picture
    if how == "stretch":
        return picture.resize(size, Image.Resampling.LANCZOS)
    by_width, by_height = size[0] / picture.width, size[1] / picture.height
    share = max(by_width, by_height) if how == "crop" else min(by_width, by_height)
    inner = (max(1, round(picture.width * share)), max(1, round(picture.height * share)))
    resized = picture.resize(inner, Image.Resampling.LANCZOS)
    left, top = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
    if how == "crop":
        return resized.crop((-left, -top, size[0] - left, size[1] - top))
    right, bottom = size[0] - inner[0] - left, size[1] - inner[1] - top
    return drawn_out(resized, (left, top, right, bottom))


def drawn_out(picture: Image.Image, by: tuple[int, int, int, int]) -> Image.Image:
    """Larger by so many pixels at the left, top, right and bottom, with the edge's colours."""
    left, top, right, bottom = by
    values = np.pad(np.asarray(picture), ((top, bottom), (left, right), (0, 0)), mode="edge")
    return Image.fromarray(values)
