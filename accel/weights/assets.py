"""The models that come with the package: where they lie, and whether they are what was shipped."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from accel.core import InputError

MANIFEST = "MANIFEST.json"


def asset(name: str) -> Path:
    """Return the path of an embedded file, its content compared with the manifest once a process.

    Raises InputError when the manifest does not name it, or when it is missing or changed.
    """
    fault = _fault(name)
    if fault:
        raise InputError(fault)
    return _folder() / name


def is_shipped(source: object) -> bool:
    """Whether this is the path of an embedded file, which is what was shipped: no stranger's."""
    if not isinstance(source, Path) or source.parent != _folder():
        return False
    return not _fault(source.name)


def manifest() -> dict[str, dict[str, Any]]:
    """What is embedded: by name, its bytes, sha256, licence and origin."""
    rows = json.loads((_folder() / MANIFEST).read_text(encoding="utf-8"))["files"]
    return {row["name"]: row for row in rows}


def verify_assets() -> dict[str, str]:
    """Compare every embedded file with the manifest: by name, "" or what is wrong with it."""
    return {name: _fault(name) for name in manifest()}


@cache
def _fault(name: str) -> str:
    row = manifest().get(name)
    if row is None:
        return f"asset must be one of {', '.join(manifest())}, got {name!r}"
    path = _folder() / name
    try:
        content = path.read_bytes()
    except OSError as error:
        return f"{path}: embedded file cannot be read ({error.strerror})"
    if len(content) != row["bytes"] or hashlib.sha256(content).hexdigest() != row["sha256"]:
        return (
            f"{path}: must be the {row['bytes']} bytes that were shipped, "
            f"got {len(content)} bytes with another sha256"
        )
    return ""


def _folder() -> Path:
    return Path(str(resources.files("accel"))) / "assets"
