"""Networks that were exported to ONNX, kept between runs: to export a large one takes minutes.

They lie under `graphs` in the folder of accel.provenance.keys.config_folder, each under the hash of
what it was made from: the checkpoint's bytes, the autoencoder's, the data type, the exporter. A
kept model is taken only if nobody else could have written it and every byte of it is as it was
left; otherwise it is made again. ACCEL_GRAPHS_MB (16384) says how many MB are kept, 0 none: the
models used longest ago go first.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import torch

import accel
from accel.core import ConfigError, InputError, read_json
from accel.models.export import OPSET, export_model
from accel.models.load import Loaded
from accel.models.onnx_model import open_onnx
from accel.pipelines.generate import hashes
from accel.unfinished import passing_name

LIST = "files.json"  # of a kept model: name and hash of each of its files
ROOM = 2  # times a model's size that must be free on the disk, or it is not kept


def exported(
    loaded: Loaded, sources: Sequence[Path], dtype: torch.dtype, device: torch.device
) -> Loaded:
    """The same networks by ONNX Runtime; kept from the last run where they can be.

    sources: the files or folders that `loaded` was read from.
    """
    most = most_bytes()
    if not most:
        return _made_for_once(loaded, device)
    place = folder() / key_of(sources, dtype)
    if is_whole(place):
        with suppress(InputError):  # made by another version, perhaps
            opened = open_exported(place, device, ours=True)
            os.utime(place)
            return opened
    shutil.rmtree(place, ignore_errors=True)
    size = sum(p.numel() for p in loaded.model.parameters()) * dtype.itemsize
    if size > most:
        return _made_for_once(loaded, device)
    try:
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        make_room(place.parent, most - size)
        if shutil.disk_usage(place.parent).free < ROOM * size:
            return _made_for_once(loaded, device)
        _make(loaded, place)
    except OSError:  # a cache that cannot be written costs time, nothing else
        return _made_for_once(loaded, device)
    return open_exported(place, device, ours=True)


def open_exported(folder: Path, device: torch.device, *, ours: bool = False) -> Loaded:
    """ours: as `accel.models.onnx_model.open_onnx` has it."""
    cuda = ["CUDAExecutionProvider"] if device.type == "cuda" else []
    return open_onnx(folder, providers=[*cuda, "CPUExecutionProvider"], ours=ours)


def _made_for_once(loaded: Loaded, device: torch.device) -> Loaded:
    """Their files are gone once they are open."""
    with tempfile.TemporaryDirectory(prefix="accel-onnx-") as folder:
        export_model(loaded, Path(folder) / "model")
        return open_exported(Path(folder) / "model", device, ours=True)


def _make(loaded: Loaded, place: Path) -> None:
    part = passing_name(place)
    before = os.umask(0o077)
    try:
        export_model(loaded, part)
        known = {str(path.relative_to(part)): hashes.of_file(path) for path in files_of(part)}
        (part / LIST).write_text(json.dumps(known, indent=0))
        os.replace(part, place)
    finally:
        os.umask(before)
        shutil.rmtree(part, ignore_errors=True)


def folder() -> Path:
    from accel.provenance.keys import config_folder  # its cryptography is a library of its own

    return config_folder() / "graphs"


def most_bytes() -> int:
    """Raises ConfigError for a limit that is no number."""
    said = os.environ.get("ACCEL_GRAPHS_MB", "16384")
    if not said.isdecimal():
        raise ConfigError(f"ACCEL_GRAPHS_MB must be a whole number of MB, got {said!r}")
    return int(said) << 20


def key_of(sources: Sequence[Path], dtype: torch.dtype) -> str:
    digest = hashlib.sha256(f"{accel.__version__} {OPSET} {torch.__version__} {dtype}".encode())
    for source in sources:
        for path in files_of(source) if source.is_dir() else [source]:
            name = path.relative_to(source) if source.is_dir() else ""
            digest.update(f"\n{name} {hashes.sha256(path)}".encode())
        digest.update(b"\n--")
    return digest.hexdigest()[:40]


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != LIST)


def is_whole(place: Path) -> bool:
    """Whether a kept model is all there, ours alone to write, and as it was left."""
    try:
        if not all(_is_ours(path) for path in [place.parent, place, *place.rglob("*")]):
            return False
        known = read_json(place / LIST, "the list of a kept model")
        names = {str(path.relative_to(place)): path for path in files_of(place)}
        return (
            isinstance(known, dict)
            and known.keys() == names.keys()
            and all(hashes.of_file(path) == known[name] for name, path in names.items())
        )
    except (OSError, InputError):
        return False


def _is_ours(path: Path) -> bool:
    about = path.lstat()
    is_plain = stat.S_ISREG(about.st_mode) or stat.S_ISDIR(about.st_mode)
    if not hasattr(os, "geteuid"):  # Windows keeps the folder by its own lists
        return is_plain
    return is_plain and about.st_uid == os.geteuid() and not about.st_mode & 0o022


def make_room(folder: Path, most: int) -> None:
    """Remove the models used longest ago until the others take at most `most` bytes."""
    kept = sorted(_kept(folder), reverse=True)
    total = 0
    for _, size, place in kept:
        total += size
        if total > most:
            shutil.rmtree(place, ignore_errors=True)


def _kept(folder: Path) -> Iterator[tuple[float, int, Path]]:
    """When each model was last used, its bytes, and where it is."""
    for place in folder.iterdir():
        if place.is_dir() and not place.is_symlink() and not place.name.startswith("."):
            with suppress(OSError):  # another process is removing it
                size = sum(path.lstat().st_size for path in place.rglob("*") if path.is_file())
                yield place.stat().st_mtime, size, place
