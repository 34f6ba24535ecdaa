"""What this engine made in a workspace, so that clearing takes that and nothing else.

Each folder keeps a list, one file name a line, that grows with what is written there. A step that
makes files calls `remember`; one that renames them calls `renamed`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from accel.core import InputError, fresh, read_file

LIST_NAME = ".accel-made"
PARTIAL = ".partial"
MAX_LIST_BYTES = 256 << 20


def remember(folder: Path, names: Iterable[str]) -> None:
    """Add file names to a folder's list. A name may come twice."""
    if (folder / LIST_NAME).is_symlink():
        raise InputError(f"{folder / LIST_NAME}: must be a plain file, got a link; remove it")
    with placed(folder / LIST_NAME), (folder / LIST_NAME).open("a", encoding="utf-8") as file:
        file.writelines(f"{name}\n" for name in names)


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
    torn = {_partial(folder / name) for name in plain} & set(folder.glob(f".*{PARTIAL}"))
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


def write_whole(path: Path, data: bytes) -> None:
    """Write a file under its name only once it is complete; a full disk leaves nothing."""
    partial = _partial(path)
    try:
        with placed(path):
            fresh(partial).write_bytes(data)
            os.replace(partial, path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


@contextmanager
def placed(path: Path) -> Iterator[None]:
    """Give errors the name of the file or folder that was written to: a full disk does not."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def _partial(path: Path) -> Path:
    """The name of a file that is being written."""
    return path.with_name(f".{path.name}{PARTIAL}")
