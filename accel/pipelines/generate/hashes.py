"""Hashes by which people name model files, kept between runs by path, size and time."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path

from accel.core import InputError, open_file, read_json
from accel.unfinished import passing_name

CACHE = "hashes.json"
PIECE = 1 << 22
MODEL_DIGITS, LORA_DIGITS = 10, 12


def sha256(path: Path) -> str:
    """SHA-256 of a whole file; its first ten digits are the "AutoV2" hash."""
    return _remembered(path, "sha256", 0)


def data_sha256(path: Path) -> str:
    """SHA-256 of a safetensors file's tensors without its header; "AutoV3", twelve digits.

    It stays when somebody edits the metadata. Of other files, that of the whole.
    """
    with open_file(path, "a model") as file:
        length = int.from_bytes(file.read(8), "little")
    is_safetensors = path.suffix == ".safetensors" and 8 + length < path.stat().st_size
    return _remembered(path, "data", 8 + length if is_safetensors else 0)


def _remembered(path: Path, kind: str, begin: int) -> str:
    about = path.stat()
    key = f"{path.resolve()}|{kind}|{about.st_size}|{about.st_mtime_ns}"
    from accel.provenance.keys import config_folder  # its cryptography is a library of its own

    place = config_folder() / CACHE
    known: dict[str, str] = {}
    with suppress(OSError, InputError):  # no cache, or one that another program spoiled
        read = read_json(place, "a list of hashes")
        known = read if isinstance(read, dict) else {}
    if key not in known:
        known[key] = of_file(path, begin)
        with suppress(OSError):  # a cache that cannot be written costs time, nothing else
            place.parent.mkdir(parents=True, exist_ok=True)
            part = passing_name(place)
            part.write_text(json.dumps(known, indent=0))
            os.replace(part, place)
    return known[key]


def of_file(path: Path, begin: int = 0) -> str:
    """SHA-256 of what a file holds now, from `begin` on."""
    digest = hashlib.sha256()
    with open_file(path, "a model") as file:
        file.seek(begin)
        while piece := file.read(PIECE):
            digest.update(piece)
    return digest.hexdigest()
