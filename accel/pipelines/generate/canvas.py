"""What one picture begins with: another's latent, a mask over it, what is pasted at the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from accel.core import ConfigError
from accel.pipelines.generate import masks
from accel.pipelines.generate.model import Model
from accel.pipelines.generate.options import Options
from accel.pipelines.generate.pictures import (
    HALVED_PX,
    drawn_out,
    fitted,
    from_tensor,
    read_mask,
    read_picture,
    to_tensor,
)
from accel.video.read import DEFAULT_LIMITS

Size = tuple[int, int]  # width, height in pixels
MAX_START_PX = 2048 * 2048  # of a picture whose size is taken over
MAX_OUTPAINTED_PX = DEFAULT_LIMITS.max_pixels
LEAST_UNIT = 8  # pixels, as everywhere


@dataclass(frozen=True)
class Canvas:
    """One picture's beginning.

    size: of the pass, (width, height). latent: [1, z, h, w] of what is started from, None for
    noise alone. mask: [1, 1, h, w], 1 is repainted. extra: what inpainting and editing networks
    see beside x. finish: puts the decoded picture where it belongs. box: where only a part of a
    picture is worked on, that part of it; whole: that picture's size.
    """

    size: Size
    latent: Tensor | None = None
    mask: Tensor | None = None
    extra: Tensor | None = None
    finish: Callable[[Tensor], Tensor] | None = None
    box: tuple[int, int, int, int] | None = None
    whole: Size | None = None


def prepare(model: Model, options: Options, init: Any, mask: Any) -> Canvas:
    """Encode what a run starts from. Raises ConfigError for what does not go together."""
    has_extra = model.loaded.model.config.unet.in_channels > 4
    if init is None:
        if mask is not None or any(options.outpaint):
            raise ConfigError("mask and outpaint need init, a picture to start from")
        if model.name.endswith("-edit"):
            raise ConfigError(f"{model.path.name}: edits pictures, so init must be given")
        size = size_of(model, options, None)
        return Canvas(size, extra=inpaint_extra(model, size, None, None) if has_extra else None)
    picture = read_picture(init, whole=options.only_masked)
    if options.only_masked and picture.width * picture.height > HALVED_PX:
        raise ConfigError(
            f"init must have {HALVED_PX} pixels at most where only_masked keeps its size, "
            f"got {picture.width}x{picture.height}"
        )
    white = None if mask is None else read_mask(mask)
    if any(options.outpaint):
        picture, white = outpainted(picture, white, options, unit_of(model))
        init = picture
    if white is None:
        return whole(model, options, init, picture, has_extra)
    return inpaint(model, options, init, picture, white, has_extra)


def whole(
    model: Model, options: Options, init: Any, picture: Image.Image, has_extra: bool
) -> Canvas:
    """Begin with all of a picture."""
    size = size_of(model, options, picture.size)
    image = pixels(init, fitted(picture, size, options.resize), picture)
    latent = model.encode(image).float()
    if model.name.endswith("-edit"):
        config = model.loaded.model.config.vae
        return Canvas(size, extra=latent / config.scale + config.shift)
    extra = inpaint_extra(model, size, image, None) if has_extra else None
    return Canvas(size, latent, extra=extra)


def pixels(init: Any, fitting: Image.Image, picture: Image.Image) -> Tensor:
    """The picture as it will be encoded; a tensor that needed no change is not rounded to bytes."""
    if isinstance(init, Tensor) and fitting is picture:
        return init.reshape(1, *init.shape[-3:]).float()
    return to_tensor(fitting)


def inpaint(
    model: Model,
    options: Options,
    init: Any,
    picture: Image.Image,
    white: Image.Image,
    has_extra: bool,
) -> Canvas:
    """Begin with a picture of which `white` is replaced, or with the part around that alone."""
    given = picture
    if white.size != picture.size:
        white = white.resize(picture.size, Image.Resampling.LANCZOS)
    if options.mask_invert:
        white = Image.fromarray(255 - np.asarray(white))
    if not options.follows_diffusers:
        white = masks.softened(white, options.mask_blur)
    size = size_of(model, options, None if options.only_masked else picture.size)
    box = masks.masked_box(white, options.padding, size) if options.only_masked else None
    if box is None:
        picture, white = fitted(picture, size, options.resize), fitted_mask(white, size, options)
        original, over = picture, masks.hardened(white)
    else:
        original, over = picture, white
        picture, white = picture.crop(box).resize(size), white.crop(box).resize(size)
    if options.mask_content != "original":
        picture = masks.flowed(picture, white)
    image = pixels(init, picture, given)
    latent = model.encode(image).float()
    nearest = options.follows_diffusers
    small = masks.latent_mask(white, (latent.shape[3], latent.shape[2]), nearest=nearest)
    mask = torch.from_numpy(small).to(model.device)[None, None]

    def finish(decoded: Tensor) -> Tensor:
        made = from_tensor(decoded)
        if box is not None:
            inner = made.resize((box[2] - box[0], box[3] - box[1]), Image.Resampling.LANCZOS)
            made = original.copy()
            made.paste(inner, box[:2])
        return to_tensor(masks.laid_over(made, original, over)).to(decoded.device)

    extra = inpaint_extra(model, size, image, white) if has_extra else None
    if options.mask_content == "latent nothing":
        latent = latent * (1 - mask)
    return Canvas(size, latent, mask, extra, finish, box, original.size)


def fitted_mask(white: Image.Image, size: Size, options: Options) -> Image.Image:
    return fitted(white.convert("RGB"), size, options.resize).convert("L")


def inpaint_extra(
    model: Model, size: Size, image: Tensor | None, white: Image.Image | None
) -> Tensor:  # [1, 5, h, w] mask, then the latent of what is not masked
    """All masked where there is no mask; A1111 shows the network grey where there is no picture."""
    width, height = size
    hole = torch.ones(1, 1, height, width)
    if white is not None:
        hole = torch.from_numpy(np.asarray(white, np.float32) / 255).round()[None, None]
    shown = torch.zeros(1, 3, height, width)
    if image is not None:
        shown = image * (1 - hole)
    latent = model.encode(shown).float()
    small = torch.nn.functional.interpolate(hole, size=latent.shape[2:]).to(latent.device)
    return torch.cat([small, latent], dim=1)


def outpainted(
    picture: Image.Image, white: Image.Image | None, options: Options, unit: int
) -> tuple[Image.Image, Image.Image]:
    """A larger picture, and a mask over what is new and a little of what is not.

    A little more is added where the sides would not be multiples of `unit`.
    """
    left, top, right, bottom = options.outpaint
    more_x, more_y = -(picture.width + left + right) % unit, -(picture.height + top + bottom) % unit
    left, right = (left + more_x, right) if left and not right else (left, right + more_x)
    top, bottom = (top + more_y, bottom) if top and not bottom else (top, bottom + more_y)
    added = (left, top, right, bottom)
    width, height = picture.width + left + right, picture.height + top + bottom
    if width * height > MAX_OUTPAINTED_PX:
        raise ConfigError(
            f"outpaint must come to {MAX_OUTPAINTED_PX} pixels at most, comes to {width}x{height}"
        )
    larger = drawn_out(picture, added)
    border = masks.border_mask(larger.size, added, options.mask_blur)
    if white is None:
        return larger, border
    within = np.asarray(border).copy()
    part = within[top : top + picture.height, left : left + picture.width]
    np.maximum(part, np.asarray(white.resize(picture.size)), out=part)
    return larger, Image.fromarray(within)


def size_of(model: Model, options: Options, start: Size | None) -> Size:
    """Asked for; else the starting picture's, cut to what the model takes; else the model's own."""
    unit = unit_of(model)
    width, height = options.width, options.height
    if start is not None:
        if not (width and height) and start[0] * start[1] > MAX_START_PX:
            raise ConfigError(
                f"width and height must be given for a picture of {start[0]}x{start[1]}: what is"
                f" made has its size, and that of its own accord at most {MAX_START_PX} pixels"
            )
        width = width or max(unit, start[0] // unit * unit)
        height = height or max(unit, start[1] // unit * unit)
    width, height = width or model.side_px, height or model.side_px
    for name, side in (("width", width), ("height", height)):
        if side % unit:
            raise ConfigError(
                f"{name} must be a multiple of {unit} pixels for this model, got {side}"
            )
    return width, height


def unit_of(model: Model) -> int:
    """Pixels of which a side must be a multiple; exported UNets halve evenly at every level."""
    if model.has_weights:
        return max(LEAST_UNIT, model.factor)
    return model.factor << (len(model.loaded.model.config.unet.channel_mult) - 1)
