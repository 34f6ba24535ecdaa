"""Files that grow under a passing name and get their own once they are whole.

What one process writes at a time grows as `.NAME.partial` (`whole`, `write_whole`): the next
attempt takes the place of what a killed one left.

What several may write at once grows under a name drawn by lot that keeps the suffix, for libraries
that look at it (`passing_name`). `Unfinished` holds a lock on such a file, which the system lets go
of when the process ends, however it ends: a file that nobody holds will never be finished.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # not on Windows: leftovers stay there
    fcntl = None  # type: ignore[assignment]

PARTIAL = ".partial"
YOUNG_S = 2.0  # a file this new may not be locked yet
TOKEN = "[0-9a-f]{8}"
NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Give a name to write `path` under; it gets its own when the block ends well.

    After an error nothing new is left, and what had the name before is as it was; an OSError that
    names no file, as a full disk's, names `path`.
    """
    with _grown(path) as partial:
        yield fresh(partial)


def write_whole(path: Path, data: bytes) -> None:
    """Write a small file as `whole` does, with the four calls of the system that it takes.

    After each of them, another thread may hold the interpreter.
    """
    with _grown(path) as partial:
        put(partial, data)


@contextlib.contextmanager
def _grown(path: Path) -> Iterator[Path]:
    """As `whole`, where room is made under the passing name by who writes there."""
    partial = partial_of(path)
    try:
        with placed(path):
            yield partial
            os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def put(path: Path, data: bytes) -> None:
    """Write a new file; what stands there goes."""
    try:
        handle = os.open(path, NEW, 0o666)
    except FileExistsError:
        handle = os.open(fresh(path), NEW, 0o666)
    try:
        left = memoryview(data)
        while left:
            left = left[os.write(handle, left) :]
    finally:
        os.close(handle)


def partial_of(path: Path) -> Path:
    """The name under which `whole` writes."""
    return path.with_name(f".{path.name}{PARTIAL}")


def fresh(path: Path) -> Path:
    """Make room for a file that is written under a passing name, and give that name back.

    What stands there may be left from a process that was killed, or be a link that somebody put
    there and that leads out of the folder: either goes.
    """
    path.unlink(missing_ok=True)
    return path


@contextlib.contextmanager
def placed(path: Path) -> Iterator[None]:
    """Give errors the name of the file or folder that was written to: a full disk does not."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def passing_name(path: Path, token: str | None = None) -> Path:
    """A name under which `path` may grow, in its folder. token: drawn by lot, if none is given."""
    token = secrets.token_hex(4) if token is None else token
    return path.parent / f".{path.stem[:64]}.{token}{PARTIAL}{path.suffix}"


def scratch_of(path: Path) -> Path:
    """Where another version of an unfinished file is made: if both are left, both go."""
    return path.with_name(f".{path.name}.signing")


class Unfinished:
    """An empty file beside `path`, ours until `close`. path: its name, drawn by lot.

    mode: who may read and write it, less what the user's mask takes away.

    What earlier runs for the same `path` left unfinished is removed: regular files of this user
    that have such a name and that no process holds.
    """

    def __init__(self, path: Path, mode: int = 0o666) -> None:
        for left in leftovers(path):
            with contextlib.suppress(OSError):
                left.unlink()
        self.path = passing_name(path)
        self._handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)
        _lock(self._handle)

    def close(self) -> None:
        """Let go of it; the file stays as it is."""
        handle, self._handle = self._handle, -1
        if handle >= 0:
            os.close(handle)


def leftovers(path: Path) -> list[Path]:
    """Files that killed processes left half written beside `path`: nobody will finish them."""
    if fcntl is None:
        return []
    begin, _, end = passing_name(path, "\0").name.partition("\0")
    ours = re.compile(re.escape(begin) + TOKEN + re.escape(end))
    names: list[str] = []
    with contextlib.suppress(OSError):  # a folder may be written to and not be read
        names = os.listdir(path.parent)
    found = [path.with_name(name) for name in sorted(names)
             if ours.fullmatch(name) and _is_nobodys(path.with_name(name))]  # fmt: skip
    return found + [scratch_of(left) for left in found if scratch_of(left).name in names]


def _is_nobodys(path: Path) -> bool:
    try:
        handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:  # gone meanwhile, a link, a folder
        return False
    try:
        found = os.fstat(handle)
        is_old = time.time() - found.st_mtime > YOUNG_S
        is_own = stat.S_ISREG(found.st_mode) and found.st_uid == os.getuid()
        return is_own and is_old and _lock(handle)
    finally:
        os.close(handle)


def is_busy(handle: int) -> bool:
    """Whether another process holds an open file; if not it is ours, where the system has locks."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks
        return False
    return False


def _lock(handle: int) -> bool:
    """Whether the file is held by us from now on, until `handle` is closed."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # held by another, or a file system without locks
        return False
    return True
