"""Saving many files as one: either all are the new ones or all are the old.

New files are written beside the old under other names and flushed to the disk; then a small note
says that they are complete; then they are renamed. A process that dies before the note leaves the
old files; one that dies after it leaves the renaming to whoever opens them next. Who reads while
another process saves waits for it, and the other way round.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # not on Windows: there a model is not to be read while it is saved
    fcntl = None  # type: ignore[assignment]

from accel.core import ConfigError, InputError, read_json
from accel.unfinished import PARTIAL, fresh

NOTE = "saving.json"


class NotSaved(ConfigError):
    """The disk is full or cannot be written; what was there before is intact."""


def save_together(folder: Path, stem: str, files: Mapping[str, bytes]) -> None:
    """Replace `files` of a folder, all or none. `stem` tells this set from others in the folder.

    Raises NotSaved if the disk is full or cannot be written: what was there before stays.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with undisturbed(folder, stem):
        _save(folder, stem, files)
        _finish(folder, stem)


@contextmanager
def undisturbed(folder: Path, stem: str) -> Iterator[None]:
    """Read a set of files while nobody saves it.

    A save that was complete when its process died is finished first, one that was not is forgotten.
    """
    with _alone(folder):
        _finish(folder, stem)
        yield


def finish_saves(folder: Path) -> None:
    """Finish every save that was complete, of any set, when its process died.

    Call before looking what sets there are.
    """
    if folder.is_dir() and any(folder.glob(f"*_{NOTE}")):
        with _alone(folder):
            for note in folder.glob(f"*_{NOTE}"):
                _finish(folder, note.name.removesuffix(f"_{NOTE}"))


def _save(folder: Path, stem: str, files: Mapping[str, bytes]) -> None:
    """Write all files under other names, and the note last."""
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
            with suppress(OSError):  # of a disk that can be read alone: the error is told once
                path.unlink(missing_ok=True)
        is_first = not any((folder / name).exists() for name in files)
        last = "there is no earlier save" if is_first else "the last save is intact"
        raise NotSaved(f"{folder}: could not be saved to ({error.strerror}); {last}") from error
    _sync(folder)


def _finish(folder: Path, stem: str) -> None:
    """Rename the files of a save that was complete, remove others. Alone in the folder."""
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


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, which the system lets go of when a process dies."""
    if fcntl is None or not folder.is_dir():
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def back_up(folder: Path, stem: str, keep: int) -> Path:
    """Copy the set's files to `<stem>_autobackups/01`, where older copies move one number up.

    Raises NotSaved if the disk is full or cannot be written: the older copies stay.
    """
    home = folder / f"{stem}_autobackups"
    newest, oldest = home / "01", home / f"{keep:02d}"
    partial = home / f"01{PARTIAL}"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        for path in sorted(folder.glob(f"{_escaped(stem)}_*")):
            if path.is_file() and path.name != _note(folder, stem).name:
                shutil.copy2(path, partial)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise NotSaved(f"{home}: could not be written to ({error.strerror})") from error
    if oldest.exists():  # not before the new one is there: a full disk must cost none
        shutil.rmtree(oldest)
    for number in range(keep - 1, 0, -1):
        if (home / f"{number:02d}").exists():
            (home / f"{number:02d}").rename(home / f"{number + 1:02d}")
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
