"""Saving many files as one: either all are the new ones or all are the old.

New files are written beside the old under other names and flushed to the disk; then a small note
says that they are complete; then they are renamed. A process that dies before the note leaves the
old files; one that dies after it leaves the renaming to whoever opens them next.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from accel.core import ConfigError, InputError, read_json
from accel.unfinished import PARTIAL, fresh

NOTE = "saving.json"


def save_together(folder: Path, stem: str, files: Mapping[str, bytes]) -> None:
    """Replace `files` of a folder, all or none. `stem` tells this set from others in the folder.

    Raises ConfigError if the disk is full or cannot be written: what was there before stays.
    """
    folder.mkdir(parents=True, exist_ok=True)
    recover(folder, stem)
    written: list[Path] = []
    note = _note(folder, stem)
    try:
        for name, content in files.items():
            written.append(folder / (name + PARTIAL))
            _write(written[-1], content)
        _sync(folder)
        written.append(note.with_name(note.name + PARTIAL))
        _write(written[-1], json.dumps(sorted(files)).encode())
        os.replace(written[-1], note)
    except OSError as error:
        for path in written:
            path.unlink(missing_ok=True)
        is_first = not any((folder / name).exists() for name in files)
        last = "there is no earlier save" if is_first else "the last save is intact"
        raise ConfigError(f"{folder}: could not be saved to ({error.strerror}); {last}") from error
    _sync(folder)
    recover(folder, stem)


def recover(folder: Path, stem: str) -> None:
    """Finish a save that was complete, forget one that was not. Call before reading."""
    note = _note(folder, stem)
    if note.exists():
        try:
            names = [str(name) for name in read_json(note, "a list of files")]
        except TypeError as error:
            raise InputError(f"{note}: is damaged: {error}") from None
        for name in names:
            partial = folder / (Path(name).name + PARTIAL)
            if partial.exists():  # the others were renamed before the process died
                os.replace(partial, folder / Path(name).name)
        _sync(folder)
        note.unlink()
    for stray in folder.glob(f"{_escaped(stem)}_*{PARTIAL}"):
        stray.unlink()


def back_up(folder: Path, stem: str, keep: int) -> Path:
    """Copy the set's files to `<stem>_autobackups/01`, where older copies move one number up."""
    home = folder / f"{stem}_autobackups"
    oldest = home / f"{keep:02d}"
    if oldest.exists():
        shutil.rmtree(oldest)
    for number in range(keep - 1, 0, -1):
        if (home / f"{number:02d}").exists():
            (home / f"{number:02d}").rename(home / f"{number + 1:02d}")
    newest = home / "01"
    partial = home / f"01{PARTIAL}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        for path in sorted(folder.glob(f"{_escaped(stem)}_*")):
            if path.is_file() and path.name != _note(folder, stem).name:
                shutil.copy2(path, partial)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise ConfigError(f"{home}: could not be written to ({error.strerror})") from error
    partial.rename(newest)
    return newest


def _note(folder: Path, stem: str) -> Path:
    return folder / f"{stem}_{NOTE}"


def _escaped(stem: str) -> str:
    return "".join(f"[{c}]" if c in "[]*?" else c for c in stem)


def _write(path: Path, content: bytes) -> None:
    with fresh(path).open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    """Renames reach the disk with their folder."""
    if os.name == "nt":  # a folder cannot be opened there
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
