"""Which pictures of an unfinished folder are done, so that the next run goes on after them.

The pictures lie beside the output, as `.NAME.unfinished`, with a list: a line of JSON that says
what they are made with, then one for each picture. A line is written when its picture is whole, and
one that a kill cut short is no line; so what is listed is there.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Iterable
from itertools import takewhile
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from accel.core import ConfigError, InputError, parse_json, read_file
from accel.unfinished import is_busy
from accel.video.sniff import reason

LIST = ".pictures.jsonl"
KIND = "accel pictures 1"
MAX_LIST_BYTES = 1 << 30
LONGEST = 24  # characters of a setting that are shown


class Plan(Protocol):
    """What a folder is made of."""

    def name(self, index: int) -> str:
        """What picture `index` is called in the folder."""

    def source(self, index: int) -> Path:
        """The file that it comes from."""

    def is_sound(self, told: Any) -> bool:
        """Whether this can have been told of a picture; a stranger may have written it."""


class PictureJournal:
    """The pictures that are done of the folder `path`, which no other process may work on.

    settings: JSON values by name; pictures made with others are not gone on with.
    done: what was told of each picture that is there already (`add`), in order from the first.
    overwrite: begin anew whatever lies there.

    Raises ConfigError where another process makes `path`, or pictures lie there that were made with
    other settings.
    """

    def __init__(
        self, path: Path, plan: Plan, settings: dict[str, Any], *, overwrite: bool = False
    ) -> None:
        self.path, self._plan = Path(path), plan
        self.folder = self.path.absolute().parent / f".{self.path.name}.unfinished"
        self._list = self.folder / LIST
        self._file = self._open()
        head = json.loads(json.dumps({"kind": KIND, "settings": settings}))  # as it will be read
        try:
            lines = [] if overwrite else self._lines(head)
        except BaseException:
            self._file.close()
            raise
        kept = list(takewhile(lambda pair: self._is_left(*pair), enumerate(lines[1:])))
        self.done: list[Any] = [entry["told"] for _, entry in kept]
        self._empty({LIST, *(plan.name(index) for index, _ in kept)})
        self._put([head, *(entry for _, entry in kept)])

    def add(self, index: int, told: Any) -> None:
        """List a picture that is whole. told: JSON values; see `done`."""
        entry = self._entry(index)
        if entry is None:
            raise InputError(f"{self._plan.source(index)}: was there, and is gone")
        self._write([{**entry, "told": told}])
        self.done.append(told)

    def remark(self) -> str:
        """What a run that stops here leaves, in words; "" for nothing."""
        if not self.done:
            return ""
        count = len(self.done)
        return f"{count} picture{'s are' if count > 1 else ' is'} done, the same command goes on"

    def close(self) -> None:
        """Let go of what is there, for a later run; where nothing is done, nothing stays."""
        if not self.done:
            self.discard()
        self._file.close()

    def discard(self) -> None:
        """Remove all of it."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def place(self) -> None:
        """Give the folder its name, without the list."""
        self._list.unlink()
        if self.path.exists():
            self.path.rmdir()  # it was empty
        os.replace(self.folder, self.path)
        self._file.close()

    def _open(self) -> BinaryIO:
        try:
            self.folder.mkdir(exist_ok=True)
            found = self.folder.lstat()
            is_own = os.name != "posix" or found.st_uid == os.getuid()
            if not (stat.S_ISDIR(found.st_mode) and is_own):
                raise ConfigError(f"{self.folder}: must be a folder of this user; remove it")
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)
            file = os.fdopen(os.open(self._list, flags, 0o666), "ab")
        except FileExistsError as error:
            raise ConfigError(f"{self.folder}: must be a folder, is a file; remove it") from error
        except OSError as error:
            raise ConfigError(f"{self.path}: cannot be made: {reason(error)}") from error
        if is_busy(file.fileno()):
            file.close()
            raise ConfigError(f"{self.path}: is being made by another process")
        return file

    def _lines(self, head: dict[str, Any]) -> list[Any]:
        """What the list says; of one that is damaged, what it says before that: the rest is made
        again."""
        try:
            data = read_file(self._list, MAX_LIST_BYTES, "a list of pictures")
        except InputError:
            return []
        lines = [one for one in map(_parsed, data.split(b"\n")[:-1]) if one is not None]
        if not lines or lines[0].get("kind") != KIND:
            return []
        before, now = lines[0].get("settings"), head["settings"]
        if before != now and len(lines) > 1:
            told = _difference(before, now) if isinstance(before, dict) else "a damaged list"
            raise ConfigError(
                f"{self.path}: {len(lines) - 1} pictures of it are done with other settings"
                f" ({told}); go on with those, or --overwrite to begin anew"
            )
        return lines

    def _is_left(self, index: int, entry: dict[str, Any]) -> bool:
        """Whether a picture and what it came from are as they were when it was listed."""
        try:
            wanted = self._entry(index)
        except IndexError:  # there are fewer pictures now
            return False
        told = entry.pop("told", None)
        is_same = wanted is not None and entry == wanted and self._plan.is_sound(told)
        entry["told"] = told
        return is_same

    def _entry(self, index: int) -> dict[str, Any] | None:
        name, source = self._plan.name(index), self._plan.source(index)
        try:
            came, made = source.stat(), (self.folder / name).lstat()
        except OSError:
            return None
        return {
            "name": name,
            "from": [came.st_size, came.st_mtime_ns],
            "made": [made.st_size, made.st_mtime_ns],
        }

    def _empty(self, but: set[str]) -> None:
        with os.scandir(self.folder) as inside:
            for one in inside:
                if one.is_dir(follow_symlinks=False):
                    shutil.rmtree(one.path)
                elif one.name not in but:
                    os.unlink(one.path)

    def _put(self, lines: Iterable[Any]) -> None:
        self._file.truncate(0)
        self._write(lines)

    def _write(self, lines: Iterable[Any]) -> None:
        self._file.write(b"".join(json.dumps(line).encode() + b"\n" for line in lines))
        self._file.flush()


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        found = parse_json(line, "a line")
    except InputError:
        return None
    return found if isinstance(found, dict) else None


def _difference(before: dict[str, Any], now: dict[str, Any]) -> str:
    names = [name for name in {**now, **before} if before.get(name) != now.get(name)]
    return "; ".join(
        f"{_short(name)} {_short(before.get(name))}, now {_short(now.get(name))}"
        for name in names[:3]
    )


def _short(value: Any) -> str:
    text = json.dumps(value)  # escapes what a terminal would take for a command
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
