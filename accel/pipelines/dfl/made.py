"""What this engine made in a workspace, so that clearing takes that and nothing else.

Each folder keeps a list, one file name a line, that grows with what is written there. A step that
makes files calls `remember`; one that renames them calls `renamed`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import BinaryIO

from accel.core import InputError, read_file
from accel.unfinished import PARTIAL, partial_of, placed, write_whole

LIST_NAME = ".accel-made"
MAX_LIST_BYTES = 256 << 20


def remember(folder: Path, names: Iterable[str]) -> None:
    """Add file names to a folder's list. A name may come twice."""
    if (folder / LIST_NAME).is_symlink():
        raise InputError(f"{folder / LIST_NAME}: must be a plain file, got a link; remove it")
    with placed(folder / LIST_NAME), (folder / LIST_NAME).open("a+b") as file:
        begun = "\n" if _is_torn(file) else ""
        file.write((begun + "".join(f"{name}\n" for name in names)).encode())


def _is_torn(file: BinaryIO) -> bool:
    """Whether the last line was cut short, as a disk does that gets full."""
    if not file.seek(0, os.SEEK_END):
        return False
    file.seek(-1, os.SEEK_END)
    return file.read(1) != b"\n"


def made_in(folder: Path) -> list[Path]:
    """The files of a folder that were made here and are still there, the list itself last.

    What a killed run left half written of them is among them.
    """
    path = folder / LIST_NAME
    if not path.is_file():
        return []
    names = dict.fromkeys(
        read_file(path, MAX_LIST_BYTES, "a list of files").decode("utf-8", "replace").splitlines()
    )
    # A name with a folder in it was written by somebody else.
    plain = [name for name in names if name and Path(name).name == name]
    found = [folder / name for name in plain if (folder / name).is_file()]
    torn = {partial_of(folder / name) for name in plain} & set(folder.glob(f".*{PARTIAL}"))
    return [*found, *sorted(torn), path]


def renamed(folder: Path, names: Mapping[str, Path]) -> None:
    """Follow files of `folder` to where they went; those not listed in it stay unlisted."""
    path = folder / LIST_NAME
    if not path.is_file():
        return
    known = dict.fromkeys(
        read_file(path, MAX_LIST_BYTES, "a list of files").decode("utf-8", "replace").splitlines()
    )
    here = [name for name in known if name not in names]
    moved: dict[Path, list[str]] = {}
    for name in known:
        if name in names:
            moved.setdefault(names[name].parent, []).append(names[name].name)
    here += moved.pop(folder, [])
    write_whole(path, "".join(f"{name}\n" for name in here).encode())
    for other, gone in moved.items():
        remember(other, gone)
