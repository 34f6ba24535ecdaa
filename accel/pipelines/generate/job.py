"""`accel.generate`: pictures from a prompt into files, marked, with a report of what was done."""

from __future__ import annotations

import os
import platform
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import accel
from accel.core import Cancel, ConfigError, ProgressCallback
from accel.pipelines.generate.infotext import CHUNK
from accel.pipelines.generate.sampler import Picture, Sampler, model_sha256
from accel.pipelines.generate.sheet import contact_sheet
from accel.pipelines.provenance import Marker, ProvenanceConfig
from accel.pipelines.swap import peak_memory_mb
from accel.provenance.watermark import Mark

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


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


def generate(
    prompt: str,
    output: str | Path,
    *,
    model: str | Path | Sampler = "nano",
    dtype: torch.dtype = torch.float32,
    device: str = "auto",
    vae: str | Path | None = None,
    overwrite: bool = False,
    sheet: bool = True,
    provenance: ProvenanceConfig | None = None,
    progress: ProgressCallback | None = None,
    cancel: Cancel | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Make pictures and write them; return the report that the command line gives as JSON.

    options: those of `Model.sample`, named as on the command line. A `Sampler` as `model` is
    reused. Raises ConfigError for what cannot be, Cancelled; nothing half-written is left then.
    """
    config = OutputConfig(
        output=Path(output),
        overwrite=overwrite,
        sheet=sheet,
        provenance=provenance or ProvenanceConfig(),
    )
    config.check_free(int(options.get("count", 1)))
    started = time.perf_counter()
    sampler = model if isinstance(model, Sampler) else Sampler(
        model, dtype=dtype, device=device, vae=vae
    )  # fmt: skip
    loaded = time.perf_counter()
    pictures = list(sampler.pictures(prompt, progress=progress, cancel=cancel, **options))
    sampled = time.perf_counter()
    files, marked = write(pictures, config, sampler)
    done = time.perf_counter()
    return {
        "output": str(config.output),
        "files": [str(path) for path in files],
        "pictures": [
            {"seed": p.seed, "width": p.rgb.shape[1], "height": p.rgb.shape[0],
             "infotext": p.infotext}
            for p in pictures
        ],
        "model": sampler.model.path.stem,
        "family": sampler.model.name,
        "seconds": done - started,
        "stage_seconds": {
            "load": loaded - started,
            "sample": sampled - loaded,
            "write": done - sampled,
        },
        "peak_memory_mb": peak_memory_mb(),
        "device": str(sampler.model.device),
        "versions": {
            "accel": accel.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "marked": marked,
    }  # fmt: skip


def write(
    pictures: Sequence[Picture], config: OutputConfig, sampler: Sampler
) -> tuple[list[Path], dict[str, Any]]:
    """Save pictures and, of several, their sheet, each marked; all of them or none."""
    marker = Marker(
        config.provenance, task="generate", networks={"model": model_sha256(sampler.model)}
    )
    paths = config.paths(len(pictures))
    images = [(path, p.rgb, p.infotext, p.ident) for path, p in zip(paths, pictures)]
    if len(pictures) > 1 and config.sheet:
        sheet = contact_sheet([p.rgb for p in pictures])
        images.append((config.output, sheet, pictures[0].infotext, pictures[0].ident))
    written: list[Path] = []
    try:
        for path, rgb, infotext, ident in images:
            save(path, rgb, infotext, ident, marker)
            written.append(path)
    except BaseException:
        for path in written:
            path.unlink(missing_ok=True)
        raise
    return written, marker.report()


def save(path: Path, rgb: NDArray[np.uint8], infotext: str, ident: str, marker: Marker) -> None:
    """Mark a picture and save it with its text; nothing is left behind where that fails.

    ident: of the mark. It comes from the text, so that a picture made again has the same pixels.
    """
    marking = marker.begin()
    if marking.mark is not None:
        marking.mark = Mark(ident)
    marked = rgb.copy()
    marking.mark_picture(marked)
    partial = path.with_name(f".{path.stem[:64]}.{secrets.token_hex(4)}.partial{path.suffix}")
    try:
        Image.fromarray(marked).save(partial, **text_for(path, infotext))
        marking.seal(partial, path)
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        marking.unseal()
        raise


def text_for(path: Path, infotext: str) -> dict[str, Any]:
    """Pillow's options that put a picture's text where other programs look for it."""
    if path.suffix.lower() == ".png":
        chunks = PngInfo()
        chunks.add_text(CHUNK, infotext)  # becomes iTXt where Latin-1 does not do
        return {"pnginfo": chunks}
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + infotext.encode("utf-16-be")  # UserComment
    options: dict[str, Any] = {"exif": exif, "quality": 95}
    return options | ({"lossless": True} if path.suffix.lower() == ".webp" else {"subsampling": 0})
