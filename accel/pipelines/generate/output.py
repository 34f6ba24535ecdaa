"""Finished pictures into files: through the content gate, marked, with the text of their making."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from accel.core import ConfigError
from accel.pipelines.generate.grid import Grid
from accel.pipelines.generate.infotext import CHUNK
from accel.pipelines.generate.model import Model
from accel.pipelines.generate.sampler import Picture, model_sha256
from accel.pipelines.generate.sheet import contact_sheet
from accel.pipelines.provenance import Marker, ProvenanceConfig, earlier_mark, first_lumas
from accel.pipelines.verify import decoded
from accel.video.picture_header import FORMATS

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
EXIF_IFD, USER_COMMENT = 0x8769, 0x9286


class PictureGate(Protocol):
    """What is asked before a picture is written; see accel.pipelines.gate.ContentGate."""

    def check_picture(self, rgb: NDArray[np.uint8], what: str = ...) -> None:
        """Raise Refused to stop the run."""


@dataclass(frozen=True, kw_only=True)
class OutputConfig:
    """Where pictures go.

    output: file of the picture; of several, of the sheet of them, and each has its number added.
    overwrite: replace what is there. sheet: whether several get one.
    """

    output: Path
    overwrite: bool = False
    sheet: bool = True
    provenance: ProvenanceConfig = field(default_factory=ProvenanceConfig)

    def __post_init__(self) -> None:
        if self.output.suffix.lower() not in SUFFIXES:
            raise ConfigError(f"output must end in {', '.join(SUFFIXES)}, got {self.output}")
        if not self.output.absolute().parent.is_dir():
            raise ConfigError(f"{self.output}: its folder does not exist")

    def paths(self, count: int) -> list[Path]:
        if count == 1:
            return [self.output]
        stem, suffix = self.output.stem, self.output.suffix
        return [self.output.with_name(f"{stem}-{i + 1}{suffix}") for i in range(count)]

    def check_free(self, count: int) -> None:
        paths = self.paths(count)
        if count > 1 and self.sheet:
            paths.append(self.output)
        taken = [path for path in paths if path.exists()]
        if taken and not self.overwrite:
            raise ConfigError(f"{taken[0]} exists; choose another name or ask to overwrite it")


def write(
    pictures: Sequence[Picture],
    config: OutputConfig,
    model: Model,
    gate: PictureGate,
    target: Path | None = None,  # the picture that was altered, if one was
    table: Grid | None = None,  # of these pictures; then it alone is saved
) -> tuple[list[Path], dict[str, Any]]:
    """Save pictures and, of several, their sheet, all or none; give files and what was marked."""
    for i, picture in enumerate(pictures):
        gate.check_picture(picture.rgb, f"picture {i + 1}")
    task = "edit" if target else "generate"
    marker = Marker(config.provenance, task=task, networks=networks_of(model))
    # Outside a mask the picture keeps the mark that it had; a second one would spoil both.
    earlier = earlier_mark(first_lumas(decoded(target))) if target else None
    paths = config.paths(len(pictures))
    images = [(path, p.rgb, p.infotext, p.ident) for path, p in zip(paths, pictures)]
    if table is not None:
        ident = hashlib.sha256(table.infotext.encode()).hexdigest()[:12]
        images = [(config.output, table.rgb, table.infotext, ident)]
    elif len(pictures) > 1 and config.sheet:
        sheet = contact_sheet([p.rgb for p in pictures])
        images.append((config.output, sheet, pictures[0].infotext, pictures[0].ident))
    written: list[Path] = []
    try:
        for path, rgb, infotext, ident in images:
            save(path, rgb, infotext, ident, marker, target=target, earlier=earlier)
            written.append(path)
    except BaseException:
        for path in written:
            path.unlink(missing_ok=True)
        raise
    return written, marker.report()


def networks_of(model: Model) -> Mapping[str, str]:
    sha256 = model_sha256(model)
    return {"model": sha256} if sha256 else {}


def save(
    path: Path,
    rgb: NDArray[np.uint8],
    infotext: str,
    ident: str,
    marker: Marker,
    *,
    target: Path | None = None,
    earlier: str | None = None,
) -> None:
    """Mark a picture and save it with its text; nothing is left behind where that fails.

    ident: of the mark. It comes from the text, so that a picture made again has the same pixels.
    """
    text = text_for(path, infotext)
    marker.save(rgb.copy(), path, target=target, earlier=earlier, ident=ident, **text)


def text_for(path: Path, infotext: str) -> dict[str, Any]:
    """Pillow's options that put a picture's text where other programs look for it."""
    if path.suffix.lower() == ".png":
        chunks = PngInfo()
        chunks.add_text(CHUNK, infotext)  # becomes iTXt where Latin-1 does not do
        return {"pnginfo": chunks}
    exif = Image.Exif()
    exif.get_ifd(EXIF_IFD)[USER_COMMENT] = b"UNICODE\0" + infotext.encode("utf-16-be")
    options: dict[str, Any] = {"exif": exif, "quality": 95}
    return options | ({"lossless": True} if path.suffix.lower() == ".webp" else {"subsampling": 0})


def text_of(path: Path) -> str | None:
    """A picture's text, from a PNG's chunk or from EXIF; None where it has none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of damaged EXIF, which is read as soon as it is opened
        with Image.open(path, formats=FORMATS) as picture:
            text = picture.info.get(CHUNK)
            if isinstance(text, str):
                return text
            comment = picture.getexif().get_ifd(EXIF_IFD).get(USER_COMMENT)
    if not isinstance(comment, bytes):
        return str(comment) if comment else None
    kind, body = comment[:8], comment[8:]
    if kind != b"UNICODE\0":
        return (body if kind in (b"ASCII\0\0\0", bytes(8)) else comment).decode("utf-8", "replace")
    # Writers disagree on the byte order; text is mostly Latin, so zeros tell.
    order = "utf-16-be" if body[::2].count(0) >= body[1::2].count(0) else "utf-16-le"
    return body.decode(order, "replace")
